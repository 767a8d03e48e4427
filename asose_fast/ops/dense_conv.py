"""Dense convolution with the ReLU before it: stems, projections and the candidates of plain networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autocast import computing_dtype, without_autocast
from asose_fast.ops.autograd import differentiable, on_saved, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_flag, check_images, check_integer, check_like, check_tensor
from asose_fast.ops.dense import Dense
from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.layout import empty_channels_last
from asose_fast.ops.library import define
from asose_fast.ops.reference.dense_conv import reference

registry.register(
    "dense_conv",
    {"reference": "asose_fast.ops.reference.dense_conv", "cpu": "asose_fast.ops.native.dense_conv"},
    small=True,
)


def dense_conv(x: Tensor, weight: Tensor, *, stride: int | tuple[int, int] = 1, relu: bool = False) -> Tensor:
    """Dense convolution of an odd kernel and `same` padding (docs/kernels.md).

        y = conv2d(relu(x), weight, stride, padding k // 2)

    Of x, neither relu(x) nor its mask is stored: backward takes both from x.

    Args:
        x: (N, C_in, H, W) float16, bfloat16, float32 or float64. Other layouts than channels_last are converted.
        weight: (C_out, C_in, k_h, k_w) with odd k_h and k_w, in any floating dtype.
        stride: 1 or more, for both axes or (down, across).
        relu: whether x is rectified first.

    Returns:
        (N, C_out, ceil(H / stride), ceil(W / stride)), channels_last, in the dtype of x; under autocast, for a float32
        x, in that of autocast.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape, device or range.
    """
    conv = Dense.of("dense_conv", stride, relu)
    check_convolution("dense_conv", x, weight, conv)
    x = x.to(computing_dtype(x))
    with without_autocast(x):
        if transformed():
            return reference(x, weight, conv)
        y: Tensor = _DenseConv.apply(conv, x.contiguous(memory_format=torch.channels_last), weight)
        return y


def check_convolution(where: str, x: Tensor, weight: Tensor, conv: Dense) -> None:
    """Raises TypeError or ValueError for what is no such convolution."""
    check_flag(f"{where}: relu", conv.relu)
    for step in conv.stride:
        check_integer(f"{where}: stride", step)
    check_images(f"{where}: x", x)
    check_tensor(f"{where}: weight", weight)
    if not weight.is_floating_point():
        raise TypeError(f"{where}: weight must be a floating tensor, got {weight.dtype}")
    if weight.dim() != 4 or weight.shape[1] != x.shape[1] or 0 in weight.shape:
        raise ValueError(
            f"{where}: weight must be (C_out, C_in, k_h, k_w) with C_in = {x.shape[1]}, got {tuple(weight.shape)}"
        )
    for taps in weight.shape[2:]:
        if taps % 2 == 0:
            raise ValueError(f"{where}: the kernel of weight must be odd, got {tuple(weight.shape[2:])}")
    for step in conv.stride:
        if step < 1:
            raise ValueError(f"{where}: stride must be 1 or more, got {step}")
    if weight.device != x.device:
        raise ValueError(f"{where}: weight is on {weight.device}, x on {x.device}")


def has_kernels(x: Tensor, weight: Tensor, conv: Dense) -> bool:
    """Whether something else than plain PyTorch serves such a call."""
    there = registry.has_kernels("dense_conv", x.device.type, computing_dtype(x))
    return there and registry.serves("dense_conv", "cpu", x, weight.shape, conv)


def _plain(ctx: Any) -> tuple[Callable[..., Tensor], Sequence[Any]]:
    def plain(conv: Dense, x: Tensor, weight: Tensor) -> Tensor:
        return reference(x, weight, conv)

    return plain, (ctx.conv, *ctx.saved_tensors)


class _DenseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, conv: Dense, x: Tensor, weight: Tensor) -> Tensor:
        ctx.conv = conv
        save(ctx, x, weight)
        y: Tensor = dense_conv_fwd.unchecked(x, weight, *conv)
        return y

    @staticmethod
    @twice_differentiable(differentiable(_plain))
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        _, need_x, need_weight = ctx.needs_input_grad
        grad_x, grad_weight = on_saved(ctx, dense_conv_bwd)(grad, x, weight, *ctx.conv, need_x, need_weight)
        return None, grad_x if need_x else None, grad_weight if need_weight else None


def _fwd(x: Tensor, weight: Tensor, *values: Any) -> Any:
    conv = Dense(*values)
    return registry.select("dense_conv", x, weight.shape, conv).forward(x, weight, conv)


def _check_fwd(x: Tensor, weight: Tensor, *values: Any) -> None:
    check_convolution("dense_conv_fwd", x, weight, Dense(*values))
    check_like("dense_conv_fwd: weight", weight, tuple(weight.shape), *FLOATS)


def _fwd_fake(x: Tensor, weight: Tensor, *values: Any) -> Tensor:
    return empty_channels_last(x, Dense(*values).out_shape(x, weight))


def _bwd(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> Any:
    *values, need_x, need_weight = rest
    conv = Dense(*values)
    return registry.select("dense_conv", x, weight.shape, conv).backward(grad, x, weight, conv, need_x, need_weight)


def _check_bwd(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> None:
    *values, _, _ = rest
    _check_fwd(x, weight, *values)
    check_like("dense_conv_bwd: grad", grad, Dense(*values).out_shape(x, weight), x.dtype)


def _bwd_fake(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, need_x, need_weight = rest
    return (
        empty_channels_last(x, x.shape) if need_x else x.new_empty(0),
        torch.empty_like(weight) if need_weight else weight.new_empty(0),
    )


CONV = "int down, int across, bool relu"
dense_conv_fwd = define(f"dense_conv_fwd(Tensor x, Tensor weight, {CONV}) -> Tensor", _fwd, _fwd_fake, _check_fwd)
dense_conv_bwd = define(
    f"dense_conv_bwd(Tensor grad, Tensor x, Tensor weight, {CONV}, bool need_x, bool need_weight) -> (Tensor, Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
