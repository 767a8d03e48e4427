# mypy: disable-error-code="import-untyped, untyped-decorator"
"""What kernels of matrix products have in common: how they cut pixels and channels, and how exact they are."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.triton.tiles import accumulator

_CHANNELS = 64
"""Of a tile at most, by which a thread of 128 keeps 64 sums."""
LEAST = 16
"""Rows and columns that tensor cores multiply at once."""


@triton.constexpr_function
def depth_of(PRECISION: tl.constexpr, BLOCK_C: tl.constexpr, MADE: tl.constexpr = False) -> tl.constexpr:
    """How many channels a product adds up at once: fewer where they take more registers, three products of TF32 or what
    is `MADE` of two tensors."""
    return min(BLOCK_C, 32) if PRECISION == "tf32x3" or MADE else BLOCK_C


@triton.jit
def one_of(values: tl.tuple, branch: tl.tensor) -> tl.tensor:
    """The one of a program's branch: the code of a branch is there once, however many there are."""
    value = values[0]
    for b in tl.static_range(1, len(values)):
        if branch == b:
            value = values[b]
    return value


@triton.jit
def number_of(values: tl.constexpr, branch: tl.tensor) -> tl.tensor:
    """The same of numbers that are known when compiling."""
    number = branch * 0
    for b in tl.static_range(len(values)):
        number += tl.where(branch == b, values[b], 0)
    return number


class Cut(NamedTuple):
    """How (pixels, channels) are cut into tiles."""

    rows: int
    blocks: tuple[int, int, int]
    """Pixels and channels of a tile, and the power of 2 that divides all channels."""

    @staticmethod
    def of(rows: int, channels: int, most: int) -> Cut:
        """Into tiles of at most so many pixels."""
        pixels = max(min(triton.next_power_of_2(rows), most), LEAST)
        block = max(min(triton.next_power_of_2(channels), _CHANNELS), LEAST)
        return Cut(rows, (pixels, block, math.gcd(channels, 16)))

    @property
    def tasks(self) -> int:
        """Tiles that the pixels are cut into."""
        return -(-self.rows // self.blocks[0])

    def groups(self, channels: int) -> int:
        """Tiles that so many channels are cut into."""
        return -(-channels // self.blocks[1])


def types_of(x: Tensor) -> tuple[str, tl.dtype, tl.dtype]:
    """How exact products are, what they are added up in, and what is multiplied.

    Without TF32, three products of TF32 make one whose error is that of fp32. The interpreter knows no product of
    bfloat16.
    """
    acc = accumulator(x.dtype)
    if x.dtype == torch.float64:
        return "ieee", acc, acc
    if x.dtype == torch.float32:
        return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3", acc, acc
    halves = {torch.float16: tl.float16, torch.bfloat16: tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16}
    return "ieee", acc, halves[x.dtype]


def warps_of(x: Tensor) -> int:
    """The warps of a program, of which numbers of 32 bits or more take twice as many registers."""
    return 4 if x.element_size() < 4 else 8
