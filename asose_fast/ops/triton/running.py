# mypy: disable-error-code="import-untyped, untyped-decorator"
"""The running statistics of norms in Triton."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def average(running: tl.tensor, row: tl.tensor, share: tl.tensor, present: tl.tensor) -> None:
    """Running statistics after a batch, which has this share in them."""
    old = wide(running, present)
    new = old + share * (row.to(tl.float64) - old)
    if running.dtype.element_ty.primitive_bitwidth == 16:
        new = new.to(tl.float32)
    tl.store(running, new.to(running.dtype.element_ty), mask=present)


@triton.jit
def wide(running: tl.tensor, present: tl.tensor) -> tl.tensor:
    """Running statistics in float64."""
    value = tl.load(running, mask=present, other=0.0)
    if value.dtype.primitive_bitwidth == 16:  # the interpreter knows no other way from and to bfloat16
        value = value.to(tl.float32)
    return value.to(tl.float64)


def known(tables: Sequence[Tensor], device: torch.device) -> bool:
    """Whether kernels take such running statistics: on this device and dense."""
    return all(table.device == device and table.is_contiguous() for table in tables)
