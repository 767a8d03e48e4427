"""`pool_pair` on the compiled kernels (csrc/pool_pair.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels, memory
from asose_fast.ops.pool_pair import out_shape
from asose_fast.ops.reference.pool_pair import active

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(x: Tensor, stride: int, need_avg: bool, need_max: bool) -> tuple[Tensor, Tensor]:
    """avg and max, empty where they are not needed."""
    kernels, threads = cpu_kernels()
    x = dense(x)
    avg, max = (memory.empty(out_shape(x, stride), x) if need else None for need in (need_avg, need_max))
    kernels.pool_pair_forward(
        DTYPE_CODES[x.dtype], x.shape, stride, address(x), address(avg), address(max), threads
    )  # fmt: skip
    return x.new_empty(0) if avg is None else avg, x.new_empty(0) if max is None else max


def backward(
    grads: list[Tensor | None],
    zs: list[Tensor | None],
    tables: Tensor,
    x: Tensor,
    stride: int,
    terms: list[Tensor],
    factors: Tensor,
    rectified: int,
    places: Tensor | None,
) -> Tensor:
    """dL/dx of the poolings whose gradient is there, plus the terms (`asose_fast.ops.pool_pair.backward`)."""
    kernels, threads = cpu_kernels()
    x = dense(x)
    tensors = [None if t is None else dense(t) for t in (*grads, *zs, *active(terms, x, rectified))]
    acc = accumulation_dtype(x.dtype)
    table = tables.to(acc).contiguous() if len(tables) else None
    grad_x = memory.empty(x.shape, x)
    factors = factors.contiguous()
    size = kernels.pool_pair_scratch(x.shape, stride)
    scratch = torch.empty(threads * size, dtype=torch.uint8, device=x.device)
    kernels.pool_pair_backward(
        DTYPE_CODES[x.dtype], x.shape, stride, address(x), [address(t) for t in tensors], address(table),
        DTYPE_CODES[factors.dtype], len(factors), address(factors), address(grad_x), address(scratch), threads,
    )  # fmt: skip
    return grad_x
