# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`term_weights` in Triton: a dozen numbers by one program each way, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.triton.tiles import launched

DTYPES = frozenset({torch.float32, torch.float64})


@triton.constexpr_function
def _is_of(order: tl.constexpr, identity: tl.constexpr, term: tl.constexpr, k: tl.constexpr) -> tl.constexpr:
    # Whether candidate k is in a term, as the shortcut's part or as itself.
    return (identity if order[term] < 0 else order[term]) == k


@triton.jit
def _number(source: tl.tensor, k: tl.constexpr) -> tl.tensor:
    if source is None:  # noqa: SIM108 (decided when compiling)
        value = tl.full([], 1.0, tl.float64)
    else:
        value = tl.load(source + k).to(tl.float64)
    return value


@launched
@triton.jit
def _term_weights_fwd_kernel(
    weights: tl.tensor,  # or None, like gain: known when compiling
    gain: tl.tensor,
    v: tl.tensor,
    ORDER: tl.constexpr,
    IDENTITY: tl.constexpr,
) -> None:
    g = _number(gain, 0)
    for t in tl.static_range(len(ORDER)):
        if ORDER[t] >= 0:
            value = g * _number(weights, ORDER[t])
        elif IDENTITY >= 0:
            value = 1 - g + g * _number(weights, IDENTITY)
        else:
            value = 1 - g
        tl.store(v + t, value.to(v.dtype.element_ty))


@launched
@triton.jit
def _term_weights_bwd_kernel(
    grad: tl.tensor,
    weights: tl.tensor,
    gain: tl.tensor,
    grad_weights: tl.tensor,  # or None, like grad_gain
    grad_gain: tl.tensor,
    ORDER: tl.constexpr,
    IDENTITY: tl.constexpr,
    SIZE: tl.constexpr,
) -> None:
    g = _number(gain, 0)
    of_gain = tl.full([], 0.0, tl.float64)
    for t in tl.static_range(len(ORDER)):
        if ORDER[t] < 0:
            of_gain -= _number(grad, t)
    for k in tl.static_range(SIZE):
        total = tl.full([], 0.0, tl.float64)
        for t in tl.static_range(len(ORDER)):
            if _is_of(ORDER, IDENTITY, t, k):
                total += _number(grad, t)
        of_gain += _number(weights, k) * total
        if grad_weights is not None:
            tl.store(grad_weights + k, (g * total).to(grad_weights.dtype.element_ty))
    if grad_gain is not None:
        tl.store(grad_gain, of_gain.to(grad_gain.dtype.element_ty))


def forward(
    weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int, dtype: torch.dtype
) -> Tensor:
    """The weights of the terms."""
    given = gain if weights is None else weights
    v = torch.empty(len(order), dtype=dtype, device=None if given is None else given.device)
    _term_weights_fwd_kernel[(1,)](_dense(weights), gain, v, tuple(order), identity, num_warps=1)
    return v


def backward(
    grad: Tensor, weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int
) -> tuple[Tensor, Tensor]:
    """dL/dw and dL/dg; an empty tensor and 0 where there are none."""
    size = 1 + max(*order, identity) if weights is None else len(weights)
    grad_weights = None if weights is None else torch.empty_like(weights, memory_format=torch.contiguous_format)
    grad_gain = None if gain is None else torch.empty_like(gain)
    _term_weights_bwd_kernel[(1,)](
        _dense(grad), _dense(weights), gain, grad_weights, grad_gain, tuple(order), identity, size, num_warps=1
    )
    return (
        grad.new_empty(0) if grad_weights is None else grad_weights,
        grad.new_zeros(()) if grad_gain is None else grad_gain,
    )


def _dense(numbers: Tensor | None) -> Tensor | None:
    return None if numbers is None else numbers.contiguous()
