"""`dense_conv` in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.dense import Dense, padding
from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.layout import channels_last, like
from asose_fast.ops.torch_faults import conv2d, convolution_backward

DTYPES = FLOATS


def reference(x: Tensor, weight: Tensor, conv: Dense) -> Tensor:
    """The formula of `dense_conv` in plain differentiable PyTorch: what every backend is tested against."""
    x = channels_last(x)
    return conv2d(x.relu() if conv.relu else x, weight.to(x.dtype), conv.stride, padding(weight))


def forward(x: Tensor, weight: Tensor, conv: Dense) -> Tensor:
    """What `reference` gives, as a backend."""
    return reference(x, weight, conv).contiguous(memory_format=torch.channels_last)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, conv: Dense, need_x: bool, need_weight: bool
) -> tuple[Tensor, Tensor]:
    """dL/dx and dL/dweight, empty where they are not needed; as a backend."""
    active = x.relu() if conv.relu and need_weight else x
    grad_x, grad_weight = convolution_backward(
        grad, active, weight.to(x.dtype), conv.stride, padding(weight), need_x=need_x, need_weight=need_weight
    )
    if grad_x is not None:
        if conv.relu:
            grad_x = torch.ops.aten.threshold_backward(grad_x, x, 0)
        grad_x = grad_x.contiguous(memory_format=torch.channels_last)
    return (
        x.new_empty(0) if grad_x is None else grad_x,
        weight.new_empty(0) if grad_weight is None else like(grad_weight, weight),
    )
