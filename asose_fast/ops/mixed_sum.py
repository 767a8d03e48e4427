"""The weighted sum of a mixed operation's outputs: y = sum_k w_k x_k."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autograd import batched, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_all_like, check_floats, check_length, check_like, check_tensor
from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import memory_format
from asose_fast.ops.library import define
from asose_fast.ops.reference.mixed_sum import reference

MAX_INPUTS = 128
MAX_DIMS = 8
registry.register(
    "mixed_sum",
    {
        "reference": "asose_fast.ops.reference.mixed_sum",
        "cpu": "asose_fast.ops.native.mixed_sum",
        "cuda": "asose_fast.ops.native.mixed_sum_cuda",
        "triton": "asose_fast.ops.triton.mixed_sum",
    },
)


def mixed_sum(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Weighted sum of K tensors, read in place: no stacked copy is made (docs/kernels.md).

        y = sum_k w_k x_k        dL/dx_k = w_k g        dL/dw_k = <g, x_k>

    Both gradients come from one pass over g and the x_k; those that autograd does not ask for are not computed, and
    without dL/dw the x_k are not kept. An x_k whose weight is exactly 0 is not read forward, so that its infinities and
    NaNs do not reach y. Sums are kept in float32 (float64 for float64 inputs) and do not depend on the thread count.

    Args:
        xs: K tensors, 1 <= K <= 128, of one shape (at most 8 dimensions; (N, C, H, W) in a network), one dtype
            (float16, bfloat16, float32, float64) and one device, each with strides of its own. Under autocast the
            dtypes may differ: the widest is used.
        weights: (K,) float32 or float64.

    Returns:
        y in the shape and dtype of xs, channels_last where the first x is, else contiguous.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device.
    """
    xs = list(xs)
    _check(xs, weights)
    if any(x.dtype != xs[0].dtype for x in xs):
        xs = _to_widest(xs)
    if transformed():
        return reference(xs, weights)
    return _MixedSum.apply(weights.to(accumulation_dtype(xs[0].dtype)), *xs)  # type: ignore[no-any-return]


def _check(xs: list[Tensor], weights: Tensor) -> None:
    if not xs or len(xs) > MAX_INPUTS:
        raise ValueError(f"mixed_sum: xs must hold 1 to {MAX_INPUTS} tensors, got {len(xs)}")
    first = xs[0]
    for k, x in enumerate(xs):
        check_tensor(f"mixed_sum: xs[{k}]", x)
        if x.shape != first.shape:
            raise ValueError(f"mixed_sum: xs[{k}] has shape {tuple(x.shape)}, xs[0] has {tuple(first.shape)}")
        if x.device != first.device:
            raise ValueError(f"mixed_sum: xs[{k}] is on {x.device}, xs[0] on {first.device}")
        if x.dtype not in FLOATS:
            raise TypeError(f"mixed_sum: xs[{k}] must be float16, bfloat16, float32 or float64, got {x.dtype}")
    if first.dim() > MAX_DIMS:
        raise ValueError(f"mixed_sum: xs must have at most {MAX_DIMS} dimensions, got {first.dim()}")
    check_tensor("mixed_sum: weights", weights)
    if weights.shape != (len(xs),):
        raise ValueError(f"mixed_sum: weights must be (K,) = ({len(xs)},) for {len(xs)} xs, got {tuple(weights.shape)}")
    if weights.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"mixed_sum: weights must be float32 or float64, got {weights.dtype}")
    if weights.device != first.device:
        raise ValueError(f"mixed_sum: weights are on {weights.device}, xs on {first.device}")


def _to_widest(xs: list[Tensor]) -> list[Tensor]:
    if not torch.is_autocast_enabled(xs[0].device.type):
        dtypes = ", ".join(f"xs[{k}] {x.dtype}" for k, x in enumerate(xs))
        raise TypeError(f"mixed_sum: xs must have one dtype outside autocast, got {dtypes}")
    widest = xs[0].dtype
    for x in xs:
        widest = torch.promote_types(widest, x.dtype)
    return [x.to(widest) for x in xs]


def _differentiable_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weights, *xs = ctx.saved_tensors
    need_weights, *need_x = ctx.needs_input_grad
    scaled = reference if batched(grad) else mixed_sum
    products = [(grad.double() * x.double()).sum() for x in xs]
    return torch.stack(products).to(weights.dtype) if need_weights else None, *(
        scaled([grad], w) if need else None for w, need in zip(weights.split(1), need_x, strict=True)
    )


class _MixedSum(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        ctx, weights, *xs = arguments
        save(ctx, weights, *(xs if ctx.needs_input_grad[0] else ()))
        y: Tensor = mixed_sum_fwd(xs, weights)
        return y

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, *xs = ctx.saved_tensors
        need_weights, *need_x = ctx.needs_input_grad
        grad_xs, grad_weights = mixed_sum_bwd(grad, xs, weights, need_x, need_weights)
        wanted = iter(grad_xs)
        return grad_weights if need_weights else None, *(next(wanted) if need else None for need in need_x)


def _fwd(xs: list[Tensor], weights: Tensor) -> Any:
    return registry.select("mixed_sum", xs[0]).forward(xs, weights)


def _check_fwd(xs: list[Tensor], weights: Tensor) -> None:
    check_length("mixed_sum_fwd: xs", xs, 1, MAX_INPUTS)
    _check_alike("mixed_sum_fwd", xs[0], xs, len(xs), weights, len(xs))


def _check_alike(where: str, first: Tensor, xs: list[Tensor], count: int, weights: Tensor, inputs: int) -> None:
    check_floats(f"{where}: the first tensor", first)
    check_length(f"{where}: its shape", first.shape, 0, MAX_DIMS)
    check_all_like(f"{where}: xs", xs, count, first.shape, first.dtype)
    check_like(f"{where}: weights", weights, (inputs,), accumulation_dtype(first.dtype))


def _fwd_fake(xs: list[Tensor], weights: Tensor) -> Tensor:
    return torch.empty_like(xs[0], memory_format=memory_format(xs[0]))


def _bwd(grad: Tensor, xs: list[Tensor], weights: Tensor, need_x: list[bool], need_weights: bool) -> Any:
    return registry.select("mixed_sum", grad).backward(grad, xs, weights, need_x, need_weights)


def _check_bwd(grad: Tensor, xs: list[Tensor], weights: Tensor, need_x: list[bool], need_weights: bool) -> None:
    inputs = len(need_x)
    check_length("mixed_sum_bwd: need_x", need_x, 1, MAX_INPUTS)
    _check_alike("mixed_sum_bwd", grad, xs, inputs if xs or need_weights else 0, weights, inputs)


def _bwd_fake(
    grad: Tensor, xs: list[Tensor], weights: Tensor, need_x: list[bool], need_weights: bool
) -> tuple[list[Tensor], Tensor]:
    format = memory_format(grad)
    grad_xs = [torch.empty_like(grad, memory_format=format) for need in need_x if need]
    return grad_xs, weights.new_empty(len(need_x) if need_weights else 0)


mixed_sum_fwd = define("mixed_sum_fwd(Tensor[] xs, Tensor weights) -> Tensor", _fwd, _fwd_fake, _check_fwd)
mixed_sum_bwd = define(
    "mixed_sum_bwd(Tensor grad, Tensor[] xs, Tensor weights, bool[] need_x, bool need_weights) -> (Tensor[], Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
