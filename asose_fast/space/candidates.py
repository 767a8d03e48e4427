"""The ten candidate operations (docs/concepts.md), and those of other spaces. Each maps (N, C, H, W) to
(N, C, ceil(H/s), ceil(W/s))."""

from __future__ import annotations

import difflib
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asose_fast.ops.layout import memory_format
from asose_fast.ops.tracing import tracing
from asose_fast.space.convolution import Conv2d

SQUEEZED = 16
"""`SqueezeExcite` squeezes so many channels into one."""


class Zero(nn.Module):
    """`none`: zeros of the strided shape, in the memory format of the input."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class FactorizedReduce(nn.Module):
    """`skip_connect` at stride 2: ReLU, two 1x1 convolutions on the even and the odd pixels, concatenated, BN."""

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        """`out_channels`: as many as `channels` where it is left out."""
        super().__init__()
        out = channels if out_channels is None else out_channels
        self.even = nn.Conv2d(channels, out // 2, 1, bias=False)
        self.odd = nn.Conv2d(channels, out - out // 2, 1, bias=False)
        self.norm = _norm(out)

    def forward(self, x: Tensor) -> Tensor:
        """Gives (N, out_channels, ceil(H / 2), ceil(W / 2)) for `x` (N, C, H, W)."""
        y: Tensor = self.norm(self.halves(x))
        return y

    def halves(self, x: Tensor) -> Tensor:
        """What the norm is given.

        The pixels are picked here rather than by a stride: see "pointwise of stride 2" in
        `asose_fast.ops.torch_faults`.
        """
        active, recorded = x.relu(), tracing()
        down, across = active.shape[2] % 2, active.shape[3] % 2
        if recorded or down or across:
            active = F.pad(active, (0, across, 0, down))
        pixels = [active[:, :, i::2, i::2] for i in (0, 1)]
        if not recorded:
            pixels = [part.contiguous(memory_format=memory_format(active)) for part in pixels]
        even, odd = pixels
        return torch.cat([self.even(even), self.odd(odd)] if self.even.out_channels else [self.odd(odd)], 1)


class SqueezeExcite(nn.Module):
    """y = x * sigmoid(W2 relu(W1 m + b1) + b2), with m the mean of x over its pixels (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = self.squeezed(channels)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    @staticmethod
    def squeezed(channels: int) -> int:
        """Returns how many channels W1 gives."""
        return max(1, channels // SQUEEZED)

    def forward(self, x: Tensor) -> Tensor:
        """Gives (N, C, H, W) for `x` (N, C, H, W)."""
        mean = x.mean((2, 3), keepdim=True)
        y: Tensor = x * self.expand(self.reduce(mean).relu()).sigmoid()
        return y


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False)


def _depthwise_separable(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    return [
        nn.ReLU(),
        Conv2d(channels, channels, kernel, stride, dilation=dilation, groups=channels),
        nn.Conv2d(channels, channels, 1, bias=False),
        _norm(channels),
    ]


def _skip_connect(channels: int, stride: int) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels)


def _avg_pool(channels: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(3, stride, padding=1, count_include_pad=False), _norm(channels))


def _max_pool(channels: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.MaxPool2d(3, stride, padding=1), _norm(channels))


def _sep_conv(kernel: int) -> Callable[[int, int], nn.Module]:
    def build(channels: int, stride: int) -> nn.Module:
        return nn.Sequential(
            *_depthwise_separable(channels, kernel, stride), *_depthwise_separable(channels, kernel, stride=1)
        )

    return build


def _dil_conv(kernel: int) -> Callable[[int, int], nn.Module]:
    def build(channels: int, stride: int) -> nn.Module:
        return nn.Sequential(*_depthwise_separable(channels, kernel, stride, dilation=2))

    return build


def _conv_7x1_1x7(channels: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        Conv2d(channels, channels, (1, 7), (1, stride)),
        Conv2d(channels, channels, (7, 1), (stride, 1)),
        _norm(channels),
    )


def _dense(channels: int, kernel: int, stride: int) -> list[nn.Module]:
    return [nn.ReLU(), Conv2d(channels, channels, kernel, stride), _norm(channels)]


def _nor_conv(kernel: int) -> Callable[[int, int], nn.Module]:
    def build(channels: int, stride: int) -> nn.Module:
        return nn.Sequential(*_dense(channels, kernel, stride))

    return build


def _res_conv(kernel: int) -> Callable[[int, int], nn.Module]:
    def build(channels: int, stride: int) -> nn.Module:
        return nn.Sequential(*_dense(channels, kernel, stride), *_dense(channels, kernel, stride=1))

    return build


def _mbconv(kernel: int, expansion: int, squeeze: bool = False) -> Callable[[int, int], nn.Module]:
    """An inverted bottleneck without its shortcut, which the block has (MobileNetV2, arXiv 1801.04381). With `squeeze`,
    channels are weighted before the projection (MnasNet, arXiv 1807.11626)."""

    def build(channels: int, stride: int) -> nn.Module:
        hidden = channels * expansion
        return nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            _norm(hidden),
            nn.ReLU(),
            Conv2d(hidden, hidden, kernel, stride, groups=hidden),
            _norm(hidden),
            nn.ReLU(),
            *([SqueezeExcite(hidden)] if squeeze else []),
            nn.Conv2d(hidden, channels, 1, bias=False),
            _norm(channels),
        )

    return build


CANDIDATES: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda channels, stride: Zero(stride),
    "avg_pool_3x3": _avg_pool,
    "max_pool_3x3": _max_pool,
    "skip_connect": _skip_connect,
    "sep_conv_3x3": _sep_conv(3),
    "sep_conv_5x5": _sep_conv(5),
    "sep_conv_7x7": _sep_conv(7),
    "dil_conv_3x3": _dil_conv(3),
    "dil_conv_5x5": _dil_conv(5),
    "conv_7x1_1x7": _conv_7x1_1x7,
}
"""Builders by name, called with (channels, stride). The order is the order of the logits."""

KNOWN: dict[str, Callable[[int, int], nn.Module]] = {
    **CANDIDATES,
    "nor_conv_1x1": _nor_conv(1),
    "nor_conv_3x3": _nor_conv(3),
    "res_conv_3x3": _res_conv(3),
    "mbconv_3x3_e3": _mbconv(3, 3),
    "mbconv_3x3_e6": _mbconv(3, 6),
    "mbconv_5x5_e3": _mbconv(5, 3),
    "mbconv_5x5_e6": _mbconv(5, 6),
    "mbconv_3x3_e3_se": _mbconv(3, 3, squeeze=True),
    "mbconv_5x5_e6_se": _mbconv(5, 6, squeeze=True),
}
"""The builders of all spaces. Beside those of the default space there are those of NAS-Bench-201, what a residual block
adds to its input (twice ReLU, 3x3 convolution and norm), and inverted bottlenecks of a kernel and an expansion."""


def build_candidate(name: str, channels: int, stride: int) -> nn.Module:
    """The candidate `name` for `channels` channels. Raises ValueError for an unknown name."""
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(KNOWN)}"
        raise ValueError(f"unknown candidate {name!r}: {hint}")
    return KNOWN[name](channels, stride)
