# mypy: disable-error-code="import-untyped, untyped-decorator"
"""How the kernels cut tensors: a program handles some rows, positions of one channel each, of some channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.native import address


class launched:
    """A kernel: `kernel[programs](*arguments)` launches it, and raises ValueError where a tensor has no memory."""

    def __init__(self, kernel: Any) -> None:
        self.jit = kernel

    def __getitem__(self, programs: tuple[int, ...]) -> Callable[..., None]:
        launch = self.jit[programs]

        def run(*arguments: Any, **options: Any) -> None:
            for argument in arguments:
                for value in argument if isinstance(argument, tuple) else (argument,):
                    if isinstance(value, Tensor):
                        address(value)
            launch(*arguments, **options)

        return run


Blocks = tuple[int, int, int]
"""BLOCK_P, BLOCK_C and ALIGN of the kernels: rows and channels of a tile, and what divides the number of channels."""


def tile(rows: int, channels: int, elements: int) -> Blocks:
    """Rows and channels of a tile of at most `elements`, powers of two, and the power of 2 that divides all channels.

    Channels lie side by side in channels_last, so that 64 of them are whole cache lines in every dtype. With 4 warps,
    2048 elements are 16 registers a thread for every value kept of them: two loads of 128 bits in 16-bit dtypes. What
    more elements cost in registers, docs/gpu.md tells.
    """
    block_c = min(triton.next_power_of_2(channels), 64)
    return min(triton.next_power_of_2(max(rows, 1)), max(elements // block_c, 1)), block_c, math.gcd(channels, 16)


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """What a kernel adds up in: float64 for float64, else float32."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def rows_and_channels(x: Tensor, format: torch.memory_format) -> tuple[int, int, int]:
    """Rows, channels and the distance of two channels in the memory of `x`, which is dense in `format`.

    The kernels take the distance as a constant: a 1 that they learn when they run would not tell the compiler that a
    thread may load several channels at once.
    """
    n, c, h, w = x.shape
    return n * h * w, c, 1 if format == torch.channels_last else h * w


@triton.jit
def aligned(channels: tl.int64, ALIGN: tl.constexpr) -> tl.int64:
    """The same number, of which the compiler sees that `ALIGN` divides it: the JIT itself looks for 16 alone."""
    return channels // ALIGN * ALIGN


@triton.jit
def place(
    rows: tl.int64, channels: tl.int64, INNER: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Of program (task, group of channels): where its elements lie, which exist, its channels, and which exist."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    start = row // INNER * INNER * channels + row % INNER
    return start[:, None] + channel[None, :] * INNER, (row < rows)[:, None] & present[None, :], channel, present


@triton.jit
def pixels(
    images: tl.int32, height: tl.int32, width: tl.int32, task: tl.tensor, BLOCK_P: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The pixels of a task: their number and image, in 64 bits, row and column, and which exist."""
    # Divisions of 64 bits are slow: `pixel_tile` sees to it that 32 hold every number.
    pixel = task * BLOCK_P + tl.arange(0, BLOCK_P)
    line = pixel // width
    image = line // height
    return pixel.to(tl.int64), image.to(tl.int64), line % height, pixel % width, image < images


def pixel_tile(shape: Sequence[int], elements: int) -> Blocks:
    """`tile` for the pixels of (N, C, H, W)."""
    n, c, h, w = shape
    if n * h * w >= 2**31 - elements:
        raise ValueError(f"the Triton kernels take less than 2^31 pixels, got {tuple(shape)}")
    return tile(n * h * w, c, elements)


def grid(rows: int, channels: int, blocks: Blocks) -> tuple[int, int]:
    """Tasks and groups of channels."""
    return triton.cdiv(rows, blocks[0]), triton.cdiv(channels, blocks[1])


@triton.jit
def maxima(
    places: tl.tensor,  # of the maxima of 3x3 windows of stride 1, in row-major order
    at: tl.tensor,
    mask: tl.tensor,
    width: tl.int32,
    channels: tl.int64,
    INNER: tl.constexpr,
) -> tl.tensor:
    """Where the maxima lie of the windows around the elements that lie at `at`."""
    where = tl.load(places + at, mask=mask, other=4).to(tl.int32)
    distance = (where // 3 - 1) * width + where % 3 - 1
    return at + (distance if INNER > 1 else distance * channels)
