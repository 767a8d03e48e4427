# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`batch_statistics` in Triton: mean and squared deviations of every tile, which the last program merges."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.layout import all_dense, memory_format
from asose_fast.ops.triton import merging
from asose_fast.ops.triton.dots import one_of
from asose_fast.ops.triton.merging import Measured, Moments, merge_last, merged_tiles
from asose_fast.ops.triton.tiles import accumulator, aligned, grid, launched, place, rows_and_channels, tile

DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

_ELEMENTS, _WARPS = 4096, 8
"""Of a tile, and those that share it: larger tiles leave fewer partial sums, to be written and read again."""
_MERGED, _CHANNELS = 128, 16
"""Tiles that are merged at a time, and channels of a program: with few of them, many processors are busy."""


class Partials(NamedTuple):
    """Statistics of the tiles of several tensors."""

    table: Tensor
    """(tasks, K, 2, C) float64: mean and sum of squared deviations of every tile."""
    rows: int
    """The values a channel of a whole tensor."""
    of_tile: int
    """The values a channel of a tile; the last one may have fewer."""


@launched
@triton.jit
def _batch_statistics_kernel(
    zs: tl.tuple,
    partials: tl.tensor,  # (tasks, K, 2, C), like what follows up to EVEN as `merging.arguments` gives it
    counters: tl.tensor,
    to: tl.tuple,
    tasks: tl.int32,
    size: tl.int32,
    eps: tl.float64,
    momentum: tl.float64,
    EVEN: tl.constexpr,
    rows: tl.int64,
    channels: tl.int64,
    INNER: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    at, inside, channel, present = place(rows, channels, INNER, BLOCK_P, BLOCK_C)
    task = tl.program_id(0).to(tl.int64)
    first = task * BLOCK_P
    count = tl.minimum(rows - first, BLOCK_P).to(ACC)
    of_first = first // INNER * INNER * channels + first % INNER + channel * INNER
    k = tl.program_id(2)
    of_k = one_of(zs, k)
    z = tl.load(of_k + at, mask=inside, other=0.0).to(ACC)
    # About a value of the data, so that a large mean costs no digits.
    origin = tl.load(of_k + of_first, mask=present, other=0.0).to(ACC)
    z = tl.where(inside, z - origin[None, :], 0.0)
    mean = tl.sum(z, axis=0) / count
    z = tl.where(inside, z - mean[None, :], 0.0)
    of_tile = partials + (task * len(zs) + k) * 2 * channels + channel
    tl.store(of_tile, origin.to(tl.float64) + mean.to(tl.float64), mask=present)
    tl.store(of_tile + channels, tl.sum(z * z, axis=0).to(tl.float64), mask=present)
    merge_last(
        partials, counters, to, tasks, size, eps, momentum, EVEN, tl.program_id(0),
        k * tl.num_programs(1) + tl.program_id(1), k, len(zs), rows, BLOCK_P, channels, channel, ACC, BLOCK_C,
    )  # fmt: skip


@triton.jit
def no_sums(BLOCK_C: tl.constexpr, ACC: tl.constexpr) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Where a task of several tiles begins: an origin, the sum of what is off it, and that of its squares."""
    zeros = tl.zeros([BLOCK_C], ACC)
    return zeros, zeros, zeros


@triton.jit
def with_tile(
    sums: tl.tuple, value: tl.tensor, inside: tl.tensor, exists: tl.tensor, is_first: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """These with a further tile. The origin is the mean of the first, so that a large mean costs no digits."""
    origin = sums[0]
    value = tl.where(inside, value, 0.0)
    if is_first:
        origin = tl.sum(value, axis=0) / tl.sum(exists.to(tl.int32), axis=0).to(value.dtype)
    off = tl.where(inside, value - origin[None, :], 0.0)
    return origin, sums[1] + tl.sum(off, axis=0), sums[2] + tl.sum(off * off, axis=0)


@triton.jit
def store_statistics(
    to: tl.tensor, sums: tl.tuple, count: tl.int64, channels: tl.int64, channel: tl.tensor, present: tl.tensor
) -> None:
    """The mean of a task's `count` values a channel, and their squared deviations."""
    error = sums[1].to(tl.float64) / count.to(tl.float64)
    tl.store(to + channel, sums[0].to(tl.float64) + error, mask=present)
    tl.store(to + channels + channel, sums[2].to(tl.float64) - count.to(tl.float64) * error * error, mask=present)


@launched
@triton.jit
def _merge_kernel(
    partials: tl.tensor,
    means: tl.tensor,
    variances: tl.tensor,
    rows: tl.int64,
    tasks: tl.int32,
    channels: tl.int64,
    BLOCK_P: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    k, count = tl.program_id(0).to(tl.int64), tl.num_programs(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mean, var = merged_tiles(partials, k, count, rows, BLOCK_P, tasks, channels, channel, BLOCK_T, BLOCK_C)
    tl.store(means + k * channels + channel, mean, mask=channel < channels)
    tl.store(variances + k * channels + channel, var, mask=channel < channels)


def forward(zs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (K, C) float64."""
    moments = Moments.of(zs[0], len(zs), zs[0].shape[1])
    take(zs, moments)
    return moments


def take(zs: list[Tensor], to: Moments | Measured) -> None:
    """Writes the statistics of tensors, or of one what its norm makes of them."""
    format = memory_format(zs[0])
    rows, channels, inner = rows_and_channels(zs[0], format)
    blocks = tile(rows, channels, _ELEMENTS)
    tasks, groups = grid(rows, channels, blocks)
    if rows and channels:
        _batch_statistics_kernel[(tasks, groups, len(zs))](
            tuple(all_dense(zs, format)), *merging.arguments(to, zs[0], tasks, groups * len(zs)), rows, channels, inner,
            accumulator(zs[0].dtype), *blocks, num_warps=_WARPS,
        )  # fmt: skip


def merged(partials: Partials) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of all tiles, (K, C) float64; NaN where there is none."""
    tasks, count, _, channels = partials.table.shape
    mean, var = (partials.table.new_empty(count, channels) for _ in range(2))
    if not partials.rows or not channels:
        return mean.fill_(torch.nan), var.fill_(torch.nan)
    _merge_kernel[(count, triton.cdiv(channels, _CHANNELS))](
        partials.table, mean, var, partials.rows, tasks, channels, partials.of_tile, _MERGED, _CHANNELS, num_warps=8
    )
    return mean, var
