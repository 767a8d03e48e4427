"""Dense tensors as the per-channel kernels see them (csrc/lane_grid.h)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from asose_fast.ops.native import cpu_kernels


def channel_space(x: Tensor, format: torch.memory_format) -> tuple[int, int, int]:
    """(outer, channels, inner) of the memory of `x`, which is dense in `format`."""
    n, c, h, w = x.shape
    if format == torch.channels_last or h * w <= 1:
        return n * h * w, c, 1
    return n, c, h * w


@functools.lru_cache(maxsize=1024)
def groups(space: tuple[int, int, int]) -> int:
    """The number of partial sums of a space."""
    return int(cpu_kernels()[0].lane_groups(*space))


def wide(table: Tensor | None) -> Tensor | None:
    """A table of channels in float64, dense."""
    return None if table is None else table.double().contiguous()
