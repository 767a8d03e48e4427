"""Convolutions on kernels, in one pass with the ReLU before them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.dense import Dense, padding
from asose_fast.ops.dense_conv import dense_conv, has_kernels
from asose_fast.ops.multi_depthwise import multi_depthwise
from asose_fast.ops.pointwise import pointwise
from asose_fast.ops.torch_faults import conv2d
from asose_fast.space.fit import Fit
from asose_fast.space.parts.part import Found, Part
from asose_fast.space.recognise import is_any_depthwise, is_dense, is_pointwise, is_relu

SMALL = 1 << 15
"""Elements of a tensor that `pointwise` projects as fast as oneDNN; it takes twice as long for a large one."""

LARGE = 1 << 18
"""Elements of a tensor from which on 3x3 depthwise convolutions are faster on kernels; others always are."""


class ActiveDepthwise:
    """y = conv2d(relu(x)), on `multi_depthwise` where that is faster and the tensors are for it, else by the module."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv

    def __call__(self, x: Tensor) -> Tensor:
        conv, fit = self.conv, Fit.of(x)
        pays = x.numel() >= LARGE or conv.kernel_size[0] > 3
        if not (pays and fit.takes(x) and fit.conv(conv, x.shape[1], 1, *conv.kernel_size)):
            y: Tensor = conv(x.relu())
            return y
        (y,) = multi_depthwise(x, [conv.weight], dilations=[conv.dilation[0]], stride=conv.stride[0])
        return y


class Convolution:
    """y = conv2d(relu(x)) or, where it is not `active`, conv2d(x), on `dense_conv` or `pointwise` where the tensors are
    for them, else as the module computes it, but right where PyTorch is not."""

    def __init__(self, conv: nn.Conv2d, active: bool) -> None:
        self.conv, self.active = conv, active

    def __call__(self, x: Tensor) -> Tensor:
        conv, fits = self.conv, self.fits(x, Fit.of(x))
        if fits and has_kernels(x, conv.weight, self.dense):
            return dense_conv(x, conv.weight, stride=self.stride, relu=self.active)
        if fits and self.active and self._on_pointwise(x):
            return pointwise(x, [conv.weight])
        active = x.relu() if self.active else x
        if fits:
            return conv2d(active, conv.weight, self.stride, padding(conv.weight))
        y: Tensor = conv(active)
        return y

    def takes_relu(self, x: Tensor) -> bool:
        """Says whether a kernel takes the ReLU along, where operators take x."""
        return has_kernels(x, self.conv.weight, self.dense) or self._on_pointwise(x)

    def _on_pointwise(self, x: Tensor) -> bool:
        has_kernel = registry.has_kernels("pointwise", x.device.type, x.dtype)
        return has_kernel and x.numel() <= SMALL and is_pointwise(self.conv)

    @property
    def stride(self) -> tuple[int, int]:
        """The steps down and across."""
        return self.dense.stride

    @property
    def dense(self) -> Dense:
        """What operators take it as."""
        return Dense.of_module(self.conv, self.active)

    def out_shape(self, x: Tensor) -> torch.Size:
        """The shape of the output for x."""
        return torch.Size(self.dense.out_shape(x, self.conv.weight))

    def fits(self, x: Tensor, fit: Fit) -> bool:
        """Says whether operators take x and the weight."""
        conv = self.conv
        return fit.takes(x) and fit.conv(conv, conv.out_channels, x.shape[1], *conv.kernel_size)


def find_depthwise(modules: Sequence[Part]) -> Found | None:
    """A ReLU and a depthwise convolution."""
    if len(modules) > 1 and is_relu(modules[0]) and is_any_depthwise(conv := modules[1]):
        return ActiveDepthwise(conv), 2
    return None


def find_convolution(modules: Sequence[Part]) -> tuple[Convolution, int] | None:
    """A dense convolution, with the ReLU before it where one is."""
    active = is_relu(modules[0])
    if len(modules) > active and is_dense(conv := modules[active]):
        return Convolution(conv, active), 1 + active
    return None
