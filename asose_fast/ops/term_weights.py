"""The weights of the terms of a mixed operation: those of its candidates, blended with a shortcut by a gain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autograd import gradients, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_integer, check_length, check_like
from asose_fast.ops.dtypes import WIDE
from asose_fast.ops.library import define
from asose_fast.ops.mixed_sum import MAX_INPUTS
from asose_fast.ops.reference.term_weights import reference

registry.register(
    "term_weights",
    {
        "reference": "asose_fast.ops.reference.term_weights",
        "cpu": "asose_fast.ops.native.term_weights",
        "triton": "asose_fast.ops.triton.term_weights",
    },
    small=True,
)
SHORTCUT = -1
"""In an order, the term of the shortcut; as `identity`, no candidate."""


def term_weights(
    weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int, dtype: torch.dtype, like: Tensor
) -> Tensor:
    """The weights v of the terms of g * sum_k w_k o_k + (1 - g) * s, in one operator.

        v_t = g w_k for candidate k = order[t]        v_t = 1 - g + g w_identity for the shortcut

    Args:
        weights: w (K,) float32 or float64; None for 1.
        gain: g, a scalar of the same dtypes; None for 1.
        order: the candidate of every term, or `SHORTCUT`.
        identity: the candidate that is the shortcut too and has no term of its own, or `SHORTCUT` where there is none.
        dtype: of the result, float32 or float64.
        like: a tensor of the device.

    Returns:
        (T,).
    """
    if weights is None and gain is None:
        return like.new_ones(len(order), dtype=dtype)
    if transformed():
        return reference(weights, gain, order, identity).to(dtype)
    return _TermWeights.apply(weights, gain, order, identity, dtype)  # type: ignore[no-any-return]


def _differentiable_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    def plain(weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int, _: object) -> Tensor:
        return reference(weights, gain, order, identity).to(grad.dtype)

    return gradients(ctx, plain, (*ctx.saved_tensors, ctx.order, ctx.identity, None), [grad])


class _TermWeights(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weights: Tensor | None,
        gain: Tensor | None,
        order: Sequence[int],
        identity: int,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.order, ctx.identity = order, identity
        save(ctx, weights, gain)
        v: Tensor = term_weights_fwd(weights, gain, order, identity, dtype)
        return v

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weights, gain = ctx.saved_tensors
        need_weights, need_gain, *_ = ctx.needs_input_grad
        grad_weights, grad_gain = term_weights_bwd(grad, weights, gain, ctx.order, ctx.identity)
        return grad_weights if need_weights else None, grad_gain if need_gain else None, None, None, None


def _fwd(weights: Tensor | None, gain: Tensor | None, *rest: Any) -> Any:
    return registry.select("term_weights", _given(weights, gain)).forward(weights, gain, *rest)


def _bwd(grad: Tensor, *rest: Any) -> Any:
    return registry.select("term_weights", grad).backward(grad, *rest)


def _given(weights: Tensor | None, gain: Tensor | None) -> Tensor:
    given = gain if weights is None else weights
    if given is None:
        raise ValueError("term_weights: weights and gain are both missing")
    return given


def _check(where: str, weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int) -> None:
    check_length(f"{where}: order", order, 1, MAX_INPUTS)
    size = _given(weights, gain).numel() if weights is not None else max(*order, identity) + 1
    check_like(f"{where}: weights", weights, (size,), *WIDE)
    check_like(f"{where}: gain", gain, (), *WIDE)
    for k in (*order, identity):
        check_integer(f"{where}: order", k)
        if not SHORTCUT <= k < size:
            raise ValueError(f"{where}: order must be of candidates below {size}, or {SHORTCUT}; got {k}")
    if gain is None and SHORTCUT in order:
        raise ValueError(f"{where}: a shortcut must come with a gain")


def _check_fwd(
    weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int, dtype: torch.dtype
) -> None:
    _check("term_weights_fwd", weights, gain, order, identity)
    if dtype not in WIDE:
        raise TypeError(f"term_weights_fwd: dtype must be float32 or float64, got {dtype}")


def _check_bwd(grad: Tensor, weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int) -> None:
    _check("term_weights_bwd", weights, gain, order, identity)
    check_like("term_weights_bwd: grad", grad, (len(order),), *WIDE)


def _fwd_fake(
    weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int, dtype: torch.dtype
) -> Tensor:
    return _given(weights, gain).new_empty(len(order), dtype=dtype)


def _bwd_fake(
    grad: Tensor, weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int
) -> tuple[Tensor, Tensor]:
    return (
        grad.new_empty(0) if weights is None else torch.empty_like(weights),
        grad.new_empty(()) if gain is None else torch.empty_like(gain),
    )


term_weights_fwd = define(
    "term_weights_fwd(Tensor? weights, Tensor? gain, int[] order, int identity, ScalarType dtype) -> Tensor",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
term_weights_bwd = define(
    "term_weights_bwd(Tensor grad, Tensor? weights, Tensor? gain, int[] order, int identity) -> (Tensor, Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
