"""The derived network's parts in plain PyTorch: what a generated model.py is put together from.

Each part computes what its namesake in `asose_fast.space` does, under the same names in the state_dict, and is written
to be read in model.py: it uses nothing but torch, and what stands above it in this file.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

MEAN: tuple[float, ...] = (0.0,)
STD: tuple[float, ...] = (1.0,)


class Normalize(nn.Module):
    """(image - MEAN) / STD, for images with values from 0 to 1."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, values in (("mean", MEAN), ("std", STD)):
            by_channel = torch.tensor(values).reshape(-1, 1, 1)
            self.register_buffer(name, by_channel, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Zero(nn.Module):
    """Zeros, in the shape that the other operations give."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class AvgPool(nn.Sequential):
    """3x3 average pooling, BN."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__(
            nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
            nn.BatchNorm2d(channels, affine=False),
        )


class MaxPool(nn.Sequential):
    """3x3 max pooling, BN."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__(
            nn.MaxPool2d(3, stride, padding=1),
            nn.BatchNorm2d(channels, affine=False),
        )


class FactorizedReduce(nn.Module):
    """ReLU, 1x1 convolutions of the even and of the odd pixels, concatenated, BN."""

    def __init__(self, even: int, odd: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(even + odd, even, 1, stride=2, bias=False)
        # A pixel of padding, whose outputs are then left out, moves 0, 2, 4 to 1, 3, 5.
        self.odd = nn.Conv2d(even + odd, odd, 1, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(even + odd, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        odd = self.odd(x)[:, :, 1:, 1:]
        halves = [self.even(x), odd] if self.even.out_channels else [odd]
        y: Tensor = self.norm(torch.cat(halves, 1))
        return y


class DilConv(nn.Sequential):
    """ReLU, depthwise convolution of dilation 2, pointwise convolution, BN."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        depthwise = nn.Conv2d(
            channels,
            channels,
            kernel,
            stride,
            padding=kernel - 1,
            dilation=2,
            groups=channels,
            bias=False,
        )
        super().__init__(
            nn.ReLU(),
            depthwise,
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=False),
        )


class SepConv(nn.Sequential):
    """Twice: ReLU, depthwise convolution, pointwise convolution, BN."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        layers: list[nn.Module] = []
        for step in (stride, 1):
            depthwise = nn.Conv2d(
                channels,
                channels,
                kernel,
                step,
                padding=kernel // 2,
                groups=channels,
                bias=False,
            )
            layers += [
                nn.ReLU(),
                depthwise,
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels, affine=False),
            ]
        super().__init__(*layers)


class SqueezeExcite(nn.Module):
    """Channels times a sigmoid of what their means say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // 16)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        y: Tensor = x * self.expand(self.reduce(mean).relu()).sigmoid()
        return y


class MBConv(nn.Sequential):
    """1x1 convolution to more channels, BN, ReLU, depthwise convolution, BN, ReLU, perhaps
    squeeze-and-excite, 1x1 convolution back, BN.
    """

    def __init__(self, channels: int, kernel: int, expansion: int, stride: int = 1, squeeze: bool = False) -> None:
        hidden = channels * expansion
        depthwise = nn.Conv2d(
            hidden,
            hidden,
            kernel,
            stride,
            padding=kernel // 2,
            groups=hidden,
            bias=False,
        )
        super().__init__(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden, affine=False),
            nn.ReLU(),
            depthwise,
            nn.BatchNorm2d(hidden, affine=False),
            nn.ReLU(),
            *([SqueezeExcite(hidden)] if squeeze else []),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=False),
        )


class Conv7x1(nn.Sequential):
    """ReLU, 1x7 convolution, 7x1 convolution, BN."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False),
            nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False),
            nn.BatchNorm2d(channels, affine=False),
        )


class NorConv(nn.Sequential):
    """ReLU, convolution, BN."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(channels, affine=False),
        )


class ResConv(nn.Sequential):
    """Twice: ReLU, convolution, BN."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        layers: list[nn.Module] = []
        for step in (stride, 1):
            layers += [
                nn.ReLU(),
                nn.Conv2d(channels, channels, kernel, step, kernel // 2, bias=False),
                nn.BatchNorm2d(channels, affine=False),
            ]
        super().__init__(*layers)


class Block(nn.Module):
    """s + gain * (operation(x) - s), with a shortcut s: x, or at stride 2 its 2x2 means.

    With s = x and the identity as operation that is x. To project from some channels to others, ReLU, a 1x1
    convolution and BN follow.
    """

    def __init__(
        self,
        name: str,
        operation: nn.Module,
        stride: int = 1,
        project: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))
        means = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
        self.shortcut: nn.Module = means if stride > 1 else nn.Identity()
        # The state_dict has the names of the search: mixed.ops.<name of the operation>.
        ops = nn.Sequential(OrderedDict([(name, operation)]))
        self.mixed = nn.Sequential(OrderedDict([("ops", ops)]))
        self.same = stride == 1 and isinstance(operation, nn.Identity)
        self.project: nn.Module = nn.Identity()
        if project:
            self.project = nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(*project, 1, bias=False),
                nn.BatchNorm2d(project[1], affine=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.shortcut(x)
        if not self.same:
            y = y + self.gain * (self.mixed(x) - y)
        z: Tensor = self.project(y)
        return z


class ConvBlock(Block):
    """A block that ends in ReLU, a 3x3 convolution, BN and, to halve the image, 2x2 max pooling."""

    def __init__(
        self,
        name: str,
        operation: nn.Module,
        stride: int,
        project: tuple[int, int],
        pool: bool = False,
    ) -> None:
        super().__init__(name, operation, stride)
        layers: list[nn.Module] = [
            nn.ReLU(),
            nn.Conv2d(*project, 3, padding=1, bias=False),
            nn.BatchNorm2d(project[1]),
        ]
        if pool:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.project = nn.Sequential(*layers)
