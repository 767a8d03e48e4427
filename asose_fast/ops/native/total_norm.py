"""`total_norm` on the compiled kernels (csrc/total_norm.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.dtypes import WIDE, widest
from asose_fast.ops.native import DTYPE_CODES, EXCHANGE, address, cpu_kernels

DTYPES = WIDE if EXCHANGE else frozenset()
"""Without that, tensors cannot be looked at."""


def whole(tensors: list[Tensor]) -> Tensor | None:
    """The norm where the kernel takes all tensors as they are. It looks at them itself: at dtypes and orders."""
    kernels, threads = cpu_kernels()
    norm = torch.empty((), dtype=widest(tensors))
    found: bool = kernels.total_norm(EXCHANGE, tensors, DTYPE_CODES[norm.dtype], address(norm), threads)
    return norm if found else None


def forward(tensors: list[Tensor]) -> Tensor:
    """The norm."""
    norm = whole(tensors)
    if norm is None:
        norm = whole([t.to(t.dtype if t.dtype in DTYPES else torch.float32).contiguous() for t in tensors])
    if norm is None:
        raise ValueError("total_norm: a tensor has no memory that can be looked at")
    return norm
