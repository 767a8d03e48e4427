"""`line_conv` in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.layout import channels_last, like
from asose_fast.ops.line import Line
from asose_fast.ops.torch_faults import conv2d, convolution_backward

DTYPES = FLOATS


def reference(x: Tensor, weight: Tensor, *, stride: int = 1, relu: bool = False) -> Tensor:
    """The formula of `line_conv` in plain differentiable PyTorch: what every backend is tested against."""
    line = Line(stride, weight.shape[2] > 1, relu)
    x = channels_last(x)
    return conv2d(x.relu() if relu else x, weight.to(x.dtype), line.along(stride), line.padding(weight))


def forward(x: Tensor, weight: Tensor, line: Line) -> Tensor:
    """What `reference` gives, as a backend."""
    y = reference(x, weight, stride=line.stride, relu=line.relu)
    return y.contiguous(memory_format=torch.channels_last)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, line: Line, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """dL/dx and dL/dweight where they are needed; as a backend."""
    active = x.relu() if line.relu and need_weight else x
    grad_x, grad_weight = convolution_backward(
        grad, active, weight.to(x.dtype), line.along(line.stride), line.padding(weight),
        need_x=need_x, need_weight=need_weight,
    )  # fmt: skip
    if grad_x is not None:
        if line.relu:
            grad_x = torch.ops.aten.threshold_backward(grad_x, x, 0)
        grad_x = grad_x.contiguous(memory_format=torch.channels_last)
    return grad_x, None if grad_weight is None else like(grad_weight, weight)
