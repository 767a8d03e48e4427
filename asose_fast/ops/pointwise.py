"""1x1 convolutions of a rectified tensor, at stride 2 each of pixels of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autocast import computing_dtype, without_autocast
from asose_fast.ops.autograd import differentiable, on_saved, save, transformed, twice_differentiable
from asose_fast.ops.checks import as_list, check_images, check_like, check_stride, check_tensor
from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.layout import empty_channels_last
from asose_fast.ops.library import define
from asose_fast.ops.reference.pointwise import out_shape, reference

registry.register(
    "pointwise",
    {
        "reference": "asose_fast.ops.reference.pointwise",
        "cpu": "asose_fast.ops.native.pointwise",
        "triton": "asose_fast.ops.triton.pointwise",
    },
    small=True,
)


def pointwise(x: Tensor, weights: Sequence[Tensor], *, stride: int = 1) -> Tensor:
    """1x1 convolutions of ReLU(x) side by side, as one node of autograd that keeps x alone.

        z[:, :, i, j] = cat_g(weights[g] @ relu(x)[:, :, s i + g, s j + g]), with 0 beyond the image

    One weight and s = 1 make a projection; two and s = 2 a factorized reduction, on even and on odd pixels. Backward
    rectifies again, and writes the gradient of x once.

    Args:
        x: (N, C, H, W) float16, bfloat16, float32 or float64. Other layouts than channels_last are converted.
        weights: 1 to s tensors (C_g, C, 1, 1), floating.
        stride: s, 1 or 2.

    Returns:
        (N, sum of C_g, ceil(H / s), ceil(W / s)), channels_last, in the dtype of x; under autocast, for a float32 x, in
        that of autocast.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape, device or range.
    """
    check_tensor("pointwise: x", x)
    weights = as_list("pointwise: weights", weights)
    _check("pointwise", x, weights, stride)
    x = x.to(computing_dtype(x))
    with without_autocast(x):
        if transformed():
            return reference(x, weights, stride)
        y: Tensor = _Pointwise.apply(stride, x.contiguous(memory_format=torch.channels_last), *weights)
        return y


def _check(where: str, x: Tensor, weights: list[Tensor], stride: int) -> None:
    check_images(f"{where}: x", x)
    check_stride(f"{where}: stride", stride)
    if not 1 <= len(weights) <= stride:
        raise ValueError(f"{where}: weights must be from 1 to {stride}, the stride, got {len(weights)}")
    for g, weight in enumerate(weights):
        check_tensor(f"{where}: weights[{g}]", weight)
        check_like(f"{where}: weights[{g}]", weight, (len(weight) if weight.dim() else 0, x.shape[1], 1, 1), *FLOATS)
        if weight.device != x.device:
            raise ValueError(f"{where}: weights[{g}] is on {weight.device}, x on {x.device}")
    if not sum([len(weight) for weight in weights]):
        raise ValueError(f"{where}: weights must have outputs")


def _plain(ctx: Any) -> tuple[Callable[..., Tensor], Sequence[Any]]:
    def plain(stride: int, x: Tensor, *weights: Tensor) -> Tensor:
        return reference(x, weights, stride)

    return plain, (ctx.stride, *ctx.saved_tensors)


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        ctx, stride, x, *weights = arguments
        ctx.stride = stride
        save(ctx, x, *weights)
        z: Tensor = pointwise_fwd.unchecked(x, weights, stride)
        return z

    @staticmethod
    @twice_differentiable(differentiable(_plain))
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        _, need_x, *needs = ctx.needs_input_grad
        grad_x, of_weights = on_saved(ctx, pointwise_bwd)(grad, x, weights, ctx.stride, need_x, any(needs))
        return (
            None,
            grad_x if need_x else None,
            *(g if need else None for g, need in zip(of_weights or needs, needs, strict=True)),
        )


def _fwd(x: Tensor, weights: list[Tensor], stride: int) -> Any:
    return registry.select("pointwise", x).forward(x, weights, stride)


def _check_fwd(x: Tensor, weights: list[Tensor], stride: int) -> None:
    _check("pointwise_fwd", x, weights, stride)


def _fwd_fake(x: Tensor, weights: list[Tensor], stride: int) -> Tensor:
    return empty_channels_last(x, out_shape(x, weights, stride))


def _bwd(grad: Tensor, x: Tensor, *rest: Any) -> Any:
    return registry.select("pointwise", x).backward(grad, x, *rest)


def _check_bwd(grad: Tensor, x: Tensor, weights: list[Tensor], stride: int, *_: bool) -> None:
    _check("pointwise_bwd", x, weights, stride)
    check_like("pointwise_bwd: grad", grad, out_shape(x, weights, stride), x.dtype)


def _bwd_fake(
    grad: Tensor, x: Tensor, weights: list[Tensor], stride: int, need_x: bool, need_weights: bool
) -> tuple[Tensor, list[Tensor]]:
    return (
        empty_channels_last(x, x.shape) if need_x else x.new_empty(0),
        [torch.empty_like(w) for w in weights] if need_weights else [],
    )


pointwise_fwd = define("pointwise_fwd(Tensor x, Tensor[] weights, int stride) -> Tensor", _fwd, _fwd_fake, _check_fwd)
pointwise_bwd = define(
    "pointwise_bwd(Tensor grad, Tensor x, Tensor[] weights, int stride, bool need_x, bool need_weights) "
    "-> (Tensor, Tensor[])",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
