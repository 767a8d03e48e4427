"""`total_norm` on the compiled kernels (csrc/total_norm.h)."""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import Tensor

from asose_fast.ops.dtypes import WIDE, widest
from asose_fast.ops.layout import orders
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels

DTYPES = WIDE
_dtype = attrgetter("dtype")


def forward(tensors: list[Tensor]) -> Tensor:
    """The norm."""
    kernels, threads = cpu_kernels()
    norm = tensors[0].new_empty((), dtype=widest(tensors))
    if None in orders(tensors) or not DTYPES.issuperset(map(_dtype, tensors)):
        tensors = [t.to(t.dtype if t.dtype in DTYPES else torch.float32).contiguous() for t in tensors]
    kernels.total_norm(
        [DTYPE_CODES[t.dtype] for t in tensors], list(map(Tensor.numel, tensors)), list(map(address, tensors)),
        DTYPE_CODES[norm.dtype], address(norm), threads,
    )  # fmt: skip
    return norm
