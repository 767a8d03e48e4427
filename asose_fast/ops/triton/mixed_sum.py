# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`mixed_sum` in Triton: one program per run of elements, passing all inputs by it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.layout import all_dense, dense, memory_format
from asose_fast.ops.triton.tiles import launched

DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

_BLOCK = 1024


@launched
@triton.jit
def _mixed_sum_fwd_kernel(
    xs: tl.tuple, weights: tl.tensor, y: tl.tensor, elements: tl.int64, BLOCK: tl.constexpr
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], weights.dtype.element_ty)
    for k in tl.static_range(len(xs)):
        w = tl.load(weights + k)
        # Unlike a branch, an empty mask leaves the loads of several inputs in flight at once.
        x = tl.load(xs[k] + at, mask=at < tl.where(w != 0, elements, 0), other=0.0)
        total += w * x.to(total.dtype)
    tl.store(y + at, total.to(y.dtype.element_ty), mask=at < elements)


@launched
@triton.jit
def _mixed_sum_bwd_kernel(
    grad: tl.tensor,
    xs: tl.tuple,
    weights: tl.tensor,
    grad_xs: tl.tuple,
    partials: tl.tensor,  # or None: known when compiling
    elements: tl.int64,
    NEED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    task = tl.program_id(0).to(tl.int64)
    at = task * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    g = tl.load(grad + at, mask=inside, other=0.0).to(weights.dtype.element_ty)
    for k in tl.static_range(len(NEED)):
        if partials is not None:
            x = tl.load(xs[k] + at, mask=inside, other=0.0).to(g.dtype)
            tl.store(partials + task * len(NEED) + k, tl.sum(g * x, axis=0))
        if NEED[k]:
            w = tl.load(weights + k)
            grad_x = tl.where(w != 0, w * g, 0.0)
            tl.store(grad_xs[k] + at, grad_x.to(grad.dtype.element_ty), mask=inside)


def forward(xs: list[Tensor], weights: Tensor) -> Tensor:
    """y = sum_k w_k x_k."""
    format = memory_format(xs[0])
    y = torch.empty_like(xs[0], memory_format=format)
    if y.numel():
        _mixed_sum_fwd_kernel[(triton.cdiv(y.numel(), _BLOCK),)](
            tuple(all_dense(xs, format)), weights.contiguous(), y, y.numel(), _BLOCK
        )
    return y


def backward(
    grad: Tensor, xs: list[Tensor], weights: Tensor, need_x: list[bool], need_weights: bool
) -> tuple[list[Tensor], Tensor]:
    """w_k g for the inputs that need it, in the layout of `grad`, and <g, x_k> (else an empty tensor)."""
    format = memory_format(grad)
    grad = dense(grad, format)
    # Absent tensors are never touched: grad stands in for them.
    dense_xs = tuple(all_dense(xs, format)) if need_weights else (grad,) * len(need_x)
    grad_xs = tuple(torch.empty_like(grad) if need else grad for need in need_x)
    tasks = triton.cdiv(grad.numel(), _BLOCK)
    partials = None
    if need_weights:
        partials = torch.empty(tasks, len(need_x), dtype=torch.float64, device=grad.device)
    if tasks:
        _mixed_sum_bwd_kernel[(tasks,)](
            grad, dense_xs, weights.contiguous(), grad_xs, partials, grad.numel(), tuple(need_x), _BLOCK
        )
    return [t for t, need in zip(grad_xs, need_x, strict=True) if need], (
        weights.new_empty(0) if partials is None else partials.sum(0).to(weights.dtype)
    )
