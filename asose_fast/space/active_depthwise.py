"""A ReLU and the depthwise convolution after it, as an inverted bottleneck has them, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from asose_fast.ops.multi_depthwise import multi_depthwise
from asose_fast.space.fit import Fit
from asose_fast.space.recognise import is_any_depthwise, is_relu


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


def paired(body: Sequence[Callable[[Tensor], Tensor]]) -> list[Callable[[Tensor], Tensor]]:
    """Returns the parts of a body, each ReLU with the depthwise convolution that follows it as one."""
    parts: list[Callable[[Tensor], Tensor]] = []
    for part in body:
        if is_any_depthwise(part) and parts and is_relu(parts[-1]):
            parts[-1] = ActiveDepthwise(part)
        else:
            parts.append(part)
    return parts
