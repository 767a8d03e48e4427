"""Convolutions on kernels, in one pass with the ReLU before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from asose_fast.ops.dense import Dense
from asose_fast.ops.dense_conv import dense_conv, has_kernels
from asose_fast.ops.multi_depthwise import multi_depthwise
from asose_fast.space.fit import Fit
from asose_fast.space.recognise import is_any_depthwise, is_dense, is_relu

Part = Callable[[Tensor], Tensor]


class ActiveDepthwise:
    """y = conv2d(relu(x)), on `multi_depthwise` where the tensors are for it, else by the module."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv

    def __call__(self, x: Tensor) -> Tensor:
        conv, fit = self.conv, Fit.of(x)
        if not (fit.takes(x) and fit.conv(conv, x.shape[1], 1, *conv.kernel_size)):
            y: Tensor = conv(x.relu())
            return y
        (y,) = multi_depthwise(x, [conv.weight], dilations=[conv.dilation[0]], stride=conv.stride[0])
        return y


class ActiveDense:
    """y = conv2d(relu(x)) or, where it is not `active`, conv2d(x), on `dense_conv` where the tensors are for it."""

    def __init__(self, conv: nn.Conv2d, active: bool) -> None:
        self.conv, self.active = conv, active

    def __call__(self, x: Tensor) -> Tensor:
        conv, fit = self.conv, Fit.of(x)
        down, across = conv.stride
        if (
            fit.takes(x)
            and fit.conv(conv, conv.out_channels, x.shape[1], *conv.kernel_size)
            and has_kernels(x, conv.weight, Dense(down, across, self.active))
        ):
            return dense_conv(x, conv.weight, stride=(down, across), relu=self.active)
        y: Tensor = conv(x.relu() if self.active else x)
        return y


def on_kernels(body: Sequence[Part]) -> list[Part]:
    """Returns the parts of a body with its convolutions on kernels, each with the ReLU before it where one is."""
    parts: list[Part] = []
    for part in body:
        active = bool(parts) and is_relu(parts[-1])
        if active and is_any_depthwise(part):
            parts[-1] = ActiveDepthwise(part)
        elif is_dense(part):
            parts[len(parts) - active :] = [ActiveDense(part, active)]
        else:
            parts.append(part)
    return parts
