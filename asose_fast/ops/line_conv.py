"""Dense convolution along one axis, with the ReLU before it: what conv_7x1_1x7 is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asose_fast.ops import by_result, registry
from asose_fast.ops.autocast import computing_dtype
from asose_fast.ops.autograd import gradients, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_flag, check_images, check_like, check_stride, check_tensor
from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.library import define
from asose_fast.ops.line import Line
from asose_fast.ops.reference.line_conv import reference

registry.register(
    "line_conv",
    {"reference": "asose_fast.ops.reference.line_conv", "cpu": "asose_fast.ops.native.line_conv"},
)


def line_conv(x: Tensor, weight: Tensor, *, stride: int = 1, relu: bool = False) -> Tensor:
    """Dense convolution along one axis (docs/kernels.md).

        y = conv2d(relu(x), weight, stride along the axis, padding k // 2 along the axis)

    Of x, neither relu(x) nor its mask is stored: backward takes both from x.

    Args:
        x: (N, C_in, H, W) float16, bfloat16, float32 or float64. Other layouts than channels_last are converted.
        weight: (C_out, C_in, 1, k) or (C_out, C_in, k, 1) with an odd k of 3 or more, in any floating dtype.
        stride: 1 or 2, along the axis of the k taps.
        relu: whether x is rectified first.

    Returns:
        (N, C_out, H, ceil(W / stride)) or (N, C_out, ceil(H / stride), W), channels_last, in the dtype of x; under
        autocast, for a float32 x, in that of autocast.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape, device or range.
    """
    check_flag("line_conv: relu", relu)
    _check(x, weight, stride)
    x = x.to(computing_dtype(x))
    if transformed():
        return reference(x, weight, stride=stride, relu=relu)
    x = x.contiguous(memory_format=torch.channels_last)
    return _LineConv.apply(Line(stride, weight.shape[2] > 1, relu), x, weight)  # type: ignore[no-any-return]


def _check(x: Tensor, weight: Tensor, stride: int) -> None:
    check_images("line_conv: x", x)
    check_tensor("line_conv: weight", weight)
    check_stride("line_conv: stride", stride)
    if not weight.is_floating_point():
        raise TypeError(f"line_conv: weight must be a floating tensor, got {weight.dtype}")
    if weight.dim() != 4 or weight.shape[1] != x.shape[1] or 1 not in weight.shape[2:] or 0 in weight.shape:
        raise ValueError(
            f"line_conv: weight must be (C_out, C_in, 1, k) or (C_out, C_in, k, 1) with C_in = {x.shape[1]}, "
            f"got {tuple(weight.shape)}"
        )
    taps = max(weight.shape[2:])
    if taps < 3 or taps % 2 == 0:
        raise ValueError(f"line_conv: the kernel of weight must be of odd length, 3 or more, got {taps}")
    if weight.device != x.device:
        raise ValueError(f"line_conv: weight is on {weight.device}, x on {x.device}")


def has_kernels(x: Tensor, line: Line) -> bool:
    """Whether something else than plain PyTorch serves some of such a call."""
    return by_result.has_kernels("line_conv", x, line)


def _differentiable_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    def plain(line: Line, x: Tensor, weight: Tensor) -> Tensor:
        return reference(x, weight, stride=line.stride, relu=line.relu)

    return gradients(ctx, plain, (ctx.line, *ctx.saved_tensors), [grad])


class _LineConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, line: Line, x: Tensor, weight: Tensor) -> Tensor:
        ctx.line = line
        save(ctx, x, weight)
        y: Tensor = line_conv_fwd(x, weight, *line)
        return y

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        _, need_x, need_weight = ctx.needs_input_grad
        grad_x, grad_weight = line_conv_bwd(
            grad.contiguous(memory_format=torch.channels_last), x, weight, *ctx.line, need_x, need_weight
        )
        return (
            None,
            grad_x if need_x else None,
            grad_weight if need_weight else None,
        )


def _fwd(x: Tensor, weight: Tensor, *line: Any) -> Any:
    return registry.select("line_conv", x, Line(*line), "y").forward(x, weight, Line(*line))


def _check_fwd(x: Tensor, weight: Tensor, *values: Any) -> None:
    line = Line(*values)
    _check(x, weight, line.stride)
    check_like("line_conv: weight", weight, (*weight.shape[:2], *line.along(max(weight.shape[2:]))), *FLOATS)


def _fwd_fake(x: Tensor, weight: Tensor, *line: Any) -> Tensor:
    return _empty(x, Line(*line).out_shape(x, weight))


def _bwd(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> Any:
    *values, need_x, need_weight = rest
    line = Line(*values)
    return by_result.backward("line_conv", (line,), (grad, x, weight), line, need_x, need_weight)


def _check_bwd(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> None:
    *values, _, _ = rest
    _check_fwd(x, weight, *values)
    check_like("line_conv_bwd: grad", grad, Line(*values).out_shape(x, weight), x.dtype)


def _bwd_fake(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, need_x, need_weight = rest
    return (
        _empty(x, x.shape) if need_x else x.new_empty(0),
        torch.empty_like(weight) if need_weight else weight.new_empty(0),
    )


def _empty(x: Tensor, shape: Any) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


LINE = "int stride, bool vertical, bool relu"
line_conv_fwd = define(f"line_conv_fwd(Tensor x, Tensor weight, {LINE}) -> Tensor", _fwd, _fwd_fake, _check_fwd)
line_conv_bwd = define(
    f"line_conv_bwd(Tensor grad, Tensor x, Tensor weight, {LINE}, bool need_x, bool need_weight) -> (Tensor, Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
