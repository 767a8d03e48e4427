"""Adds a tensor, times a factor, to another, by one kernel (csrc/add_scaled.h)."""

from __future__ import annotations

from torch import Tensor

from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels


def add_scaled(to: Tensor, x: Tensor, factor: Tensor) -> None:
    """to += factor x, in place, for dense tensors of one shape, dtype and layout and a scalar, float32 or float64."""
    kernels, threads = cpu_kernels()
    kernels.add_scaled(
        DTYPE_CODES[to.dtype], to.numel(), DTYPE_CODES[factor.dtype], address(factor), address(x), address(to), threads
    )
