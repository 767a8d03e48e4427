"""Uninitialised tensors for the outputs of kernels, on the CPU from a pool if large (csrc/runtime/memory_pool.h)."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils import deterministic, dlpack

from asose_fast import _native
from asose_fast.ops.native import DTYPE_CODES, launches

POOLED_BYTES = 1 << 18
"""Smaller tensors are not worth it."""
LINE = 64
"""Bytes of a cache line."""

_off = os.environ.get("ASOSE_POOL") == "0"


def empty(shape: Sequence[int], like: Tensor, format: torch.memory_format = torch.channels_last) -> Tensor:
    """An uninitialised tensor (N, C, H, W) in the dtype and on the device of `like`, dense in `format`.

    On the CPU, memory that a large one leaves behind waits for the next of its size, because fresh pages cost more
    than many a kernel. `release_memory` gives it back to the system; with `ASOSE_POOL=0` in the environment nothing
    waits.
    """
    size = math.prod(shape) * like.element_size()
    if size < POOLED_BYTES or _off or like.device.type != "cpu" or _poisoned():
        return torch.empty(tuple(shape), dtype=like.dtype, device=like.device, memory_format=format)
    n, c, h, w = shape
    strides = (h * w * c, 1, w * c, c) if format == torch.channels_last else (c * h * w, h * w, w, 1)
    capsule = _native.kernels("cpu").pool_empty(DTYPE_CODES[like.dtype], (n, c, h, w), strides)
    tensor: Tensor = dlpack.from_dlpack(capsule)
    return tensor


class Tensors:
    """Makes uninitialised tensors on the CPU, all in one block of the pool, which is there as long as one of them."""

    def __init__(self, kinds: Sequence[tuple[Sequence[int], Sequence[int], torch.dtype]]) -> None:
        """Takes shapes, strides and dtypes."""
        self._kinds, self._pooled = list(kinds), None
        if all(0 not in shape and dtype in DTYPE_CODES for shape, _, dtype in kinds):
            told = [(DTYPE_CODES[dtype], shape, stride) for shape, stride, dtype in kinds]
            self._pooled = _native.kernels("cpu").PooledTensors(told)

    def empty(self) -> list[Tensor]:
        """The tensors."""
        if self._pooled is None or _off or _poisoned():
            return [torch.empty_strided(shape, stride, dtype=dtype) for shape, stride, dtype in self._kinds]
        return list(map(dlpack.from_dlpack, self._pooled.empty()))


def workspace(*sizes: int) -> tuple[object, list[int]]:
    """Memory on the CPU for several arrays of so many bytes, and their addresses.

    Each begins at a cache line; an array of 0 bytes is absent and has the address 0. The memory is that of the pool: it
    is there as long as what comes with the addresses.
    """
    starts, size = places(sizes)
    if _off or _poisoned():
        held = torch.empty(size, dtype=torch.uint8)
        base = -(-held.data_ptr() // LINE) * LINE
    else:
        held, base = _native.kernels("cpu").pool_workspace(size)
    if (log := launches.log()) is not None:
        log.memory.setdefault(base, launches.Memory(size, held))
    return held, [0 if start is None else base + start for start in starts]


@functools.lru_cache(maxsize=1024)
def places(sizes: tuple[int, ...]) -> tuple[list[int | None], int]:
    """Where arrays begin after the first cache line, None for those of no bytes, and the bytes of them all."""
    ends = list(itertools.accumulate((-(-size // LINE) * LINE for size in sizes), initial=0))
    return [end if size else None for end, size in zip(ends, sizes, strict=False)], ends[-1] + LINE


def _poisoned() -> bool:
    """Whether PyTorch fills fresh memory, for whoever looks for reads of what was not written."""
    return torch.are_deterministic_algorithms_enabled() and deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]


def release_memory() -> None:
    """Gives the pool's unused memory back to the system."""
    if not _native.kernels_missing("cpu"):
        _native.kernels("cpu").pool_release()
