# mypy: disable-error-code="import-untyped, untyped-decorator"
"""Statistics of tiles, merged by the last program of the kernel that takes them."""

from __future__ import annotations

from math import isnan
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.norms import OneNorm
from asose_fast.ops.triton.last_program import arrives_last, counters, group_of, group_size
from asose_fast.ops.triton.one_norm import row_of, store_norm

_MERGED = tl.constexpr(512)
"""Values of each of two tables that are merged at a time, by 4 or 8 warps."""


class Moments(NamedTuple):
    """Statistics of K tensors, to be written: mean and biased variance, (K, C) float64."""

    mean: Tensor
    var: Tensor

    @staticmethod
    def of(x: Tensor, count: int, channels: int) -> Moments:
        """Of so many tensors on the device of x: NaN where there is no value that a kernel would make them of."""
        mean, var = (x.new_empty(count, channels, dtype=torch.float64) for _ in range(2))
        return Moments(mean, var) if x.numel() else Moments(mean.fill_(torch.nan), var.fill_(torch.nan))


class Measured(NamedTuple):
    """What a norm normalises one tensor by, to be written. Its running statistics are updated; the count of batches is
    not, which a later kernel does."""

    norm: OneNorm
    """Its running statistics are dense."""
    tables: Tensor
    """(2, C) float64: mean and rstd."""
    affine: Tensor | None = None
    """(2, C): the scale and the shift that these and gamma and beta come to."""


def arguments(to: Moments | Measured | None, x: Tensor, tasks: int, units: int = 1) -> tuple[Any, ...]:
    """The arguments of a kernel of so many tasks on the device of x, from `partials` to EVEN.

    Args:
        units: the parts of a task that are merged apart.
    """
    if to is None:
        return None, None, (), tasks, 1, 0.0, 0.0, False
    size = group_size(tasks)
    groups = -(-tasks // size)
    count, channels = to.mean.shape if isinstance(to, Moments) else (1, to.tables.shape[1])
    partials = x.new_empty(tasks + groups, count, 2, channels, dtype=torch.float64)
    last = partials, counters(x.device, units * (groups + 1))
    if isinstance(to, Moments):
        return *last, (to.mean, to.var), tasks, size, 0.0, 0.0, False
    gamma, beta, *running, _, eps, momentum = to.norm
    of_norm = *running, row_of(gamma), row_of(beta), to.tables, to.affine
    return *last, of_norm, tasks, size, eps, momentum, isnan(momentum)


@triton.jit
def merged_tiles(
    partials: tl.tensor,
    k: tl.tensor,
    count: tl.tensor,
    rows: tl.tensor,
    of_tile: tl.tensor,
    tasks: tl.tensor,
    channels: tl.int64,
    channel: tl.tensor,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Mean and biased variance of tensor k of `count`, from those of its tiles in a fixed order.

    They are merged in float64 as by Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances" (1979): every BLOCK_T-th tile, then the BLOCK_T results.
    """
    inside_channels = (channel < channels)[None, :]
    of_k = partials + k * 2 * channels + channel[None, :]
    step = count * 2 * channels
    length = tl.zeros([BLOCK_T], tl.float64)
    mean = tl.zeros([BLOCK_T, BLOCK_C], tl.float64)
    squares = mean
    for start in range(0, tasks, BLOCK_T):
        task = (start + tl.arange(0, BLOCK_T)).to(tl.int64)
        inside = (task < tasks)[:, None] & inside_channels
        more = tl.where(task < tasks, tl.minimum(rows - task * of_tile, of_tile), 0).to(tl.float64)
        apart = tl.where(inside, tl.load(of_k + task[:, None] * step, mask=inside, other=0.0) - mean, 0.0)
        share = more / tl.maximum(length + more, 1)
        mean += share[:, None] * apart
        within = tl.load(of_k + channels + task[:, None] * step, mask=inside, other=0.0)
        squares += within + (length * share)[:, None] * apart * apart
        length += more
    values = tl.sum(length, axis=0)
    mean_of_all = tl.sum(length[:, None] * mean, axis=0) / values
    apart = mean - mean_of_all[None, :]
    return mean_of_all, tl.sum(squares + length[:, None] * apart * apart, axis=0) / values


@triton.jit
def merge_last(
    partials: tl.tensor,
    counters: tl.tensor,
    to: tl.tuple,
    tasks: tl.int32,
    size: tl.int32,
    eps: tl.float64,
    momentum: tl.float64,
    EVEN: tl.constexpr,
    task: tl.tensor,
    unit: tl.tensor,
    k: tl.tensor,
    count: tl.tensor,
    rows: tl.tensor,
    of_task: tl.tensor,
    channels: tl.int64,
    channel: tl.tensor,
    TYPE: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Called when the statistics of a task are in `partials`: merges those of tensor k of `count`."""
    BLOCK_T: tl.constexpr = _MERGED // BLOCK_C
    there = channel < channels
    none = tl.zeros([], tl.int64)  # plus a number: 1 is no tensor when compiling
    group, groups, start, members = group_of(task, tasks, size)
    step, of_group, begin = count * 2 * channels, none + size * of_task, none + start
    own = counters + unit * (groups + 1)
    if arrives_last(own + 1 + group, members):
        rows_of_group = tl.minimum(rows - begin * of_task, of_group)
        mean, var = merged_tiles(
            partials + begin * step, k, count, rows_of_group, of_task, members, channels, channel, BLOCK_T, BLOCK_C
        )
        at = partials + ((none + tasks + group) * count + k) * 2 * channels + channel
        tl.store(at, mean, mask=there)
        tl.store(at + channels, var * rows_of_group, mask=there)
        if arrives_last(own, groups):
            mean, var = merged_tiles(
                partials + (none + tasks) * step, k, count, rows, of_group, groups, channels, channel, BLOCK_T, BLOCK_C
            )
            if len(to) == 2:
                tl.store(to[0] + k * channels + channel, mean, mask=there)
                tl.store(to[1] + k * channels + channel, var, mask=there)
            else:
                store_norm(to, mean, var, rows, eps, momentum, channels, channel, there, EVEN, TYPE)
