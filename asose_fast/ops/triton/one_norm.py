# mypy: disable-error-code="import-untyped, untyped-decorator"
"""What one norm normalises by, in Triton: its statistics are merged from those of tiles in one launch."""

from __future__ import annotations

from math import isnan

import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.norms import OneNorm
from asose_fast.ops.triton.batch_statistics import CHANNELS, MERGED, Partials, merged_tiles
from asose_fast.ops.triton.norm_tables import average, wide
from asose_fast.ops.triton.tiles import accumulator, launched


@triton.jit
def affine_of(
    mean: tl.tensor,
    rstd: tl.tensor,
    gamma: tl.tensor,  # or None, like beta: known when compiling
    beta: tl.tensor,
    channel: tl.tensor,
    there: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """The scale and the shift of a norm, in float64."""
    scale = rstd
    if gamma is not None:
        scale *= tl.load(gamma + channel, mask=there, other=0.0).to(tl.float64)
    shift = -mean * scale
    if beta is not None:
        shift += tl.load(beta + channel, mask=there, other=0.0).to(tl.float64)
    return scale, shift


@launched
@triton.jit
def _one_norm_kernel(
    partials: tl.tensor,  # or None where the norm does not use the batch, like the next pointers: known when compiling
    running_mean: tl.tensor,
    running_var: tl.tensor,
    batches: tl.tensor,  # or None where the norm is not updated
    gamma: tl.tensor,  # or None, like beta
    beta: tl.tensor,
    tables: tl.tensor,  # (2, C): mean and rstd
    affine: tl.tensor,  # (2, C): the scale and shift that these and gamma and beta come to; or None
    rows: tl.int64,
    tasks: tl.int32,
    channels: tl.int64,
    eps: tl.float64,
    momentum: tl.float64,
    unbiased: tl.float64,
    EVEN: tl.constexpr,  # whether all batches have the same share
    TYPE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < channels
    if partials is not None:
        mean, var = merged_tiles(partials, 0, 1, rows, tasks, channels, channel, BLOCK_P, BLOCK_T, BLOCK_C)
    else:
        mean, var = wide(running_mean + channel, there), wide(running_var + channel, there)
    tl.store(tables + channel, mean, mask=there)
    tl.store(tables + channels + channel, 1 / tl.sqrt(var + eps), mask=there)
    if affine is not None:
        scale, shift = affine_of(mean, 1 / tl.sqrt(var + eps), gamma, beta, channel, there)
        tl.store(affine + channel, scale.to(affine.dtype.element_ty), mask=there)
        tl.store(affine + channels + channel, shift.to(affine.dtype.element_ty), mask=there)
    if batches is not None:
        share = tl.zeros([], tl.float64) + momentum
        if EVEN:
            # The count of before this batch: it is counted later, by a kernel that comes after every channel.
            share = 1 / (tl.load(batches) + 1).to(tl.float64)
        average(running_mean + channel, mean.to(TYPE), share, there)
        average(running_var + channel, (var * unbiased).to(TYPE), share, there)


@triton.jit
def of_norm(
    tables: tl.tensor, gamma: tl.tensor, channels: tl.int64, channel: tl.tensor, there: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The mean of a norm, 1 / its standard deviation, and its scale, in float64."""
    mean = tl.load(tables + channel, mask=there, other=0.0)
    rstd = tl.load(tables + channels + channel, mask=there, other=0.0)
    scale = rstd
    if gamma is not None:
        scale *= tl.load(gamma + channel, mask=there, other=0.0).to(tl.float64)
    return mean, rstd, scale


def measure(
    norm: OneNorm, partials: Partials | None, tables: Tensor, like: Tensor, affine: Tensor | None = None
) -> None:
    """Writes the mean and rstd that the norm normalises a tensor by to its tables, (2, C) float64.

    The running statistics are updated; the count of batches is not, which a later kernel does. Where there is
    `affine`, (2, C), the scale and shift of the norm are written to it.

    Args:
        norm: its running statistics are dense.
        partials: the statistics of the tensor's tiles; None where the norm does not use them.
        tables: written.
        like: the tensor.
        affine: written.
    """
    gamma, beta, *running, _, eps, momentum = norm
    channels = like.shape[1]
    rows = like.numel() // channels
    _one_norm_kernel[(triton.cdiv(channels, CHANNELS),)](
        None if partials is None else partials.table, *running, row_of(gamma), row_of(beta), tables, affine, rows,
        0 if partials is None else len(partials.table), channels, eps, momentum, rows / max(1, rows - 1),
        isnan(momentum), accumulator(like.dtype), 1 if partials is None else partials.of_tile, MERGED, CHANNELS,
        num_warps=8,
    )  # fmt: skip


def row_of(table: Tensor | None) -> Tensor | None:
    """A table of channels as kernels read it."""
    return None if table is None else table.contiguous()
