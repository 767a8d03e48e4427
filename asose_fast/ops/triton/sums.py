# mypy: disable-error-code="import-untyped, untyped-decorator"
"""Sums over N, H and W for the backward pass of norms: of tiles, which the last program or the next kernel adds up."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.triton.last_program import arrives_last, group_of
from asose_fast.ops.triton.tiles import accumulator, aligned, grid, launched, maxima, place, rows_and_channels, tile

ELEMENTS, WARPS = 4096, 8
"""Of a tile, and those that share it: larger tiles leave fewer partial sums, to be written and read again."""
SUMMANDS, CHANNELS = 1024, 8
"""Partial sums that are added up at a time, and channels of a program: with few of them, many processors are busy."""
SUMMANDS_OF_LAST = tl.constexpr(512)
"""The same of the last program of a launch, in all its channels."""


@triton.jit
def sums_of_tile(
    grad: tl.tensor,
    xs: tl.tuple,
    means: tl.tensor,
    partials: tl.tensor,  # (tasks, 1 + K + J, C)
    places: tl.tensor,  # or None: of what is read of x_POOLED
    rows: tl.int64,
    channels: tl.int64,
    width: tl.int32,
    INNER: tl.constexpr,
    READ: tl.constexpr,
    POOLED: tl.constexpr,
    BRANCHES: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Writes the sums of a program's tile; gives its channels, and which exist."""
    at, inside, channel, present = place(rows, channels, INNER, BLOCK_P, BLOCK_C)
    g = tl.load(grad + at, mask=inside, other=0.0).to(ACC)
    to = partials + tl.program_id(0).to(tl.int64) * (1 + len(READ)) * channels + channel
    tl.store(to, tl.sum(g, axis=0), mask=present)
    for k in tl.static_range(len(READ)):
        if READ[k]:
            of_k = at
            if places is not None and k == POOLED:
                of_k = maxima(places, at, inside, width, channels, INNER)
            x = tl.load(xs[k] + of_k, mask=inside, other=0.0).to(ACC)
            if k < BRANCHES:
                center = tl.load(means + k * channels + channel, mask=present, other=0.0).to(ACC)
                x -= center[None, :]
            tl.store(to + (1 + k) * channels, tl.sum(tl.where(inside, g * x, 0.0), axis=0), mask=present)
    return channel, present


@launched
@triton.jit
def _sums_kernel(
    grad: tl.tensor,
    xs: tl.tuple,
    means: tl.tensor,
    partials: tl.tensor,
    places: tl.tensor,
    rows: tl.int64,
    channels: tl.int64,
    width: tl.int32,
    INNER: tl.constexpr,
    READ: tl.constexpr,
    POOLED: tl.constexpr,
    BRANCHES: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    sums_of_tile(
        grad, xs, means, partials, places, rows, channels, width, INNER, READ, POOLED, BRANCHES, ACC, BLOCK_P, BLOCK_C
    )  # fmt: skip


@triton.jit
def added_up(
    row: tl.tensor,
    distance: tl.int64,
    tasks: tl.int32,
    present: tl.tensor,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tl.tensor:
    """The sum over the tasks of a row of partial sums, in float64 and in a fixed order."""
    total = tl.zeros([BLOCK_T, BLOCK_C], tl.float64)
    for start in range(0, tasks, BLOCK_T):
        task = start + tl.arange(0, BLOCK_T)
        inside = (task < tasks)[:, None] & present[None, :]
        total += tl.load(row[None, :] + task.to(tl.int64)[:, None] * distance, mask=inside, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def added_up_by_last(
    partials: tl.tensor,  # (tasks, ROWS, C)
    of_groups: tl.tensor,  # (groups, ROWS, C) float64
    counters: tl.tensor,
    tasks: tl.int32,
    size: tl.int32,
    channels: tl.int64,
    channel: tl.tensor,
    present: tl.tensor,
    ROWS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tl.tensor:
    """Called by program (task, group of channels) when its sums are in `partials`: whether it is the last of its
    channels. It then sees, in `of_groups`, the sums of all groups of tasks."""
    group, groups, start, members = group_of(tl.program_id(0), tasks, size)
    own = counters + tl.program_id(1) * (groups + 1)
    last = arrives_last(own + 1 + group, members)
    if last:
        distance = ROWS * channels
        for row in range(ROWS):
            of_row = partials + start.to(tl.int64) * distance + row * channels + channel
            total = added_up(of_row, distance, members, present, BLOCK_T, BLOCK_C)
            tl.store(of_groups + (group * ROWS + row) * channels + channel, total, mask=present)
        last = arrives_last(own, groups)
    return last


def sums_of_tiles(
    grad: Tensor,
    xs: tuple[Tensor, ...],
    means: Tensor,
    read: tuple[bool, ...],
    format: torch.memory_format,
    places: Tensor | None,
    pooled: int,
) -> Tensor:
    """The partial sums of g = dL/dy and of g (x - mean), or of g x for the xs that have none of the means.

    All tensors are dense in `format`; sums of an x that is not `read` hold anything. With `places`, the maxima there
    stand for xs[pooled].

    Returns:
        (tasks, 1 + xs, C) float32, or float64 for float64: no tasks where there are no pixels.
    """
    rows, channels, inner = rows_and_channels(grad, format)
    blocks = tile(rows, channels, ELEMENTS)
    programs = grid(rows, channels, blocks)
    partials = grad.new_empty(programs[0], 1 + len(xs), channels, dtype=accumulation_dtype(grad.dtype))
    if rows:
        _sums_kernel[programs](
            grad, xs, means, partials, places, rows, channels, grad.shape[3], inner, read, pooled, len(means),
            accumulator(grad.dtype), *blocks, num_warps=WARPS,
        )  # fmt: skip
    return partials
