"""A dense convolution with its norm, as one node where kernels take both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.autocast import computing_dtype
from asose_fast.ops.conv_norm import conv_norm, has_kernels
from asose_fast.space.fit import Fit
from asose_fast.space.outputs import require_shortcut
from asose_fast.space.parts.convolution import Convolution, find_convolution
from asose_fast.space.parts.norm import Norm, find_norm
from asose_fast.space.parts.part import Found, Part


class ConvNorm:
    """y = BN(conv2d(relu(x))), without the ReLU where none is, and the 2x2 maxima of that where a pooling follows: on
    `conv_norm` where the tensors are for it, else by the two parts."""

    def __init__(self, conv: Convolution, norm: Norm) -> None:
        self.conv, self.norm = conv, norm

    def __call__(self, x: Tensor) -> Tensor:
        if self._fits(x, Fit.of(x)) and registry.has_kernels("norm_pool", x.device.type, computing_dtype(x)):
            return self._on_kernels(x, pool=self.norm.pool)
        return self.norm(self.conv(x))

    def blended(self, x: Tensor, gain: Tensor, shortcut: Tensor) -> Tensor:
        """Returns s + g * (BN(conv2d(relu(x))) - s), of a norm without pooling, likewise. Raises ValueError where the
        shortcut is not of the shape of the convolution's output."""
        fit, dtype = Fit.of(x), computing_dtype(x)
        if (
            self._fits(x, fit)
            and (fit.takes(shortcut) and shortcut.dtype == dtype)
            and registry.has_kernels("norm_lerp", x.device.type, dtype)
        ):
            require_shortcut(shortcut, self.conv.out_shape(x))
            return self._on_kernels(x, gain=gain, shortcut=shortcut)
        return self.norm.blended(self.conv(x), gain, shortcut)

    def _fits(self, x: Tensor, fit: Fit) -> bool:
        conv = self.conv
        return (
            conv.fits(x, fit)
            and fit.norm(self.norm.norm, conv.conv.out_channels)
            and has_kernels(x, conv.conv.weight, conv.dense)
        )

    def _on_kernels(self, x: Tensor, **rest: Any) -> Tensor:
        part = self.conv
        return conv_norm(
            x, part.conv.weight, self.norm.norm, stride=part.stride, relu=part.active, **rest, checked=True
        )


def with_norm(parts: Sequence[Part], norm: nn.BatchNorm2d) -> tuple[Sequence[Part], ConvNorm | Norm]:
    """Returns what comes before the last part of a sequence that ends in this norm, and that part."""
    last = Norm(norm, [norm])
    if parts and isinstance(conv := parts[-1], Convolution):
        return parts[:-1], ConvNorm(conv, last)
    return parts, last


def find_conv_norm(modules: Sequence[Part]) -> Found | None:
    """A dense convolution, with the ReLU before it where one is, and its norm, with the 2x2 max pooling after it where
    one is."""
    if (conv := find_convolution(modules)) is None:
        return None
    part, count = conv
    if count == len(modules) or (norm := find_norm(modules[count:])) is None:
        return None
    return ConvNorm(part, norm[0]), count + norm[1]
