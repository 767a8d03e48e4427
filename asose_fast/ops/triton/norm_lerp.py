# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`norm_lerp` in Triton: two passes over memory each way, with a launch between them for the tables of channels."""

from __future__ import annotations

from math import isnan

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import dense, memory_format
from asose_fast.ops.library import present
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import norm_lerp as reference
from asose_fast.ops.triton.batch_statistics import CHANNELS, MERGED, merged_tiles, of_tiles
from asose_fast.ops.triton.norm_tables import average, known, wide
from asose_fast.ops.triton.sums import CHANNELS as SUMMED
from asose_fast.ops.triton.sums import SUMMANDS, added_up, sums_of_tiles
from asose_fast.ops.triton.tiles import accumulator, aligned, grid, launched, place, rows_and_channels, tile

DTYPES = FLOATS

_ELEMENTS = 2048


@launched
@triton.jit
def _one_norm_kernel(
    partials: tl.tensor,  # or None where the norm does not use the batch, like the next pointers: known when compiling
    running_mean: tl.tensor,
    running_var: tl.tensor,
    batches: tl.tensor,  # or None where the norm is not updated
    tables: tl.tensor,  # (2, C): mean and rstd
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
    if batches is not None:
        share = tl.zeros([], tl.float64) + momentum
        if EVEN:
            # The count of before this batch: it is counted later, by whoever comes to read every channel.
            share = 1 / (tl.load(batches) + 1).to(tl.float64)
        average(running_mean + channel, mean.to(TYPE), share, there)
        average(running_var + channel, (var * unbiased).to(TYPE), share, there)


@triton.jit
def _of_norm(
    tables: tl.tensor, gamma: tl.tensor, channels: tl.int64, channel: tl.tensor, there: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    # The mean of a norm, 1 / its standard deviation, and its scale.
    mean = tl.load(tables + channel, mask=there, other=0.0)
    rstd = tl.load(tables + channels + channel, mask=there, other=0.0)
    scale = rstd
    if gamma is not None:
        scale *= tl.load(gamma + channel, mask=there, other=0.0).to(tl.float64)
    return mean, rstd, scale


@launched
@triton.jit
def _norm_lerp_fwd_kernel(
    z: tl.tensor,
    shortcut: tl.tensor,
    gain: tl.tensor,
    gamma: tl.tensor,  # or None, like beta
    beta: tl.tensor,
    tables: tl.tensor,
    batches: tl.tensor,  # to be counted up, or None
    y: tl.tensor,
    rows: tl.int64,
    channels: tl.int64,
    INNER: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    at, inside, channel, there = place(rows, channels, INNER, BLOCK_P, BLOCK_C)
    mean, _, scale = _of_norm(tables, gamma, channels, channel, there)
    center = mean.to(ACC)
    offset = scale * (center.to(tl.float64) - mean)
    if beta is not None:
        offset += tl.load(beta + channel, mask=there, other=0.0).to(tl.float64)
    g = tl.load(gain).to(ACC)
    v = tl.load(z + at, mask=inside, other=0.0).to(ACC)
    s = tl.load(shortcut + at, mask=inside, other=0.0).to(ACC)
    normal = scale.to(ACC)[None, :] * (v - center[None, :]) + offset.to(ACC)[None, :]
    value = tl.where(g != 0, g * normal, 0.0) + (1 - g) * s
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)
    if batches is not None:  # noqa: SIM102 (known when compiling, unlike the next condition)
        if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
            tl.store(batches, tl.load(batches) + 1)


@launched
@triton.jit
def _norm_lerp_tables_kernel(
    partials: tl.tensor,  # (tasks, 3, C): sums of dL/dy, and of that times z - mean and the shortcut; or None
    gain: tl.tensor,
    gamma: tl.tensor,  # or None, like the next ones
    beta: tl.tensor,
    tables: tl.tensor,
    of_gamma: tl.tensor,
    of_beta: tl.tensor,
    maps: tl.tensor,  # (5, C): what makes dL/dz of dL/dy, and the channels' parts of dL/dgain
    tasks: tl.int32,
    count: tl.int64,
    channels: tl.int64,
    OF_BATCH: tl.constexpr,
    NEED_GAIN: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < channels
    mean, rstd, scale = _of_norm(tables, gamma, channels, channel, there)
    g = tl.zeros([BLOCK_C], tl.float64) + tl.load(gain).to(tl.float64)
    center = mean.to(ACC).to(tl.float64)
    slope = tl.zeros([BLOCK_C], tl.float64)
    shift = slope
    if partials is not None:
        s0 = added_up(partials + channel, 3 * channels, tasks, there, BLOCK_T, BLOCK_C)
        of_z = added_up(partials + channels + channel, 3 * channels, tasks, there, BLOCK_T, BLOCK_C)
        s1 = rstd * (of_z - (mean - center) * s0)
        of_branch = s1
        if gamma is not None:
            of_branch *= tl.load(gamma + channel, mask=there, other=0.0).to(tl.float64)
        if beta is not None:
            of_branch += tl.load(beta + channel, mask=there, other=0.0).to(tl.float64) * s0
        if NEED_GAIN:
            of_shortcut = added_up(partials + 2 * channels + channel, 3 * channels, tasks, there, BLOCK_T, BLOCK_C)
            tl.store(maps + 4 * channels + channel, (of_branch - of_shortcut).to(ACC), mask=there)
        if of_gamma is not None:
            tl.store(of_gamma + channel, tl.where(g != 0, g * s1, 0.0).to(of_gamma.dtype.element_ty), mask=there)
        if of_beta is not None:
            tl.store(of_beta + channel, (g * s0).to(of_beta.dtype.element_ty), mask=there)
        if OF_BATCH:
            share = g * scale / (tl.zeros([BLOCK_C], tl.float64) - count)
            slope = share * rstd * s1
            shift = share * s0 - slope * (mean - center)
    to = maps + channel
    tl.store(to, tl.where(g != 0, g * scale, 0.0).to(ACC), mask=there)
    tl.store(to + channels, center.to(ACC), mask=there)
    tl.store(to + 2 * channels, tl.where(g != 0, slope, 0.0).to(ACC), mask=there)
    tl.store(to + 3 * channels, tl.where(g != 0, shift, 0.0).to(ACC), mask=there)


@launched
@triton.jit
def _norm_lerp_bwd_kernel(
    grad: tl.tensor,
    z: tl.tensor,
    gain: tl.tensor,
    maps: tl.tensor,
    of_z: tl.tensor,  # or None, like the next ones
    of_shortcut: tl.tensor,
    of_gain: tl.tensor,
    rows: tl.int64,
    channels: tl.int64,
    INNER: tl.constexpr,
    OF_BATCH: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    at, inside, channel, there = place(rows, channels, INNER, BLOCK_P, BLOCK_C)
    g = tl.load(gain).to(ACC)
    d = tl.load(grad + at, mask=inside, other=0.0).to(ACC)
    if of_z is not None:
        value = tl.load(maps + channel, mask=there, other=0.0)[None, :] * d
        if OF_BATCH:
            center = tl.load(maps + channels + channel, mask=there, other=0.0)[None, :]
            slope = tl.load(maps + 2 * channels + channel, mask=there, other=0.0)[None, :]
            shift = tl.load(maps + 3 * channels + channel, mask=there, other=0.0)[None, :]
            value += slope * (tl.load(z + at, mask=inside, other=0.0).to(ACC) - center) + shift
        tl.store(of_z + at, tl.where(g != 0, value, 0.0).to(of_z.dtype.element_ty), mask=inside)
    if of_shortcut is not None:
        value = tl.where(g != 1, (1 - g) * d, 0.0)
        tl.store(of_shortcut + at, value.to(of_shortcut.dtype.element_ty), mask=inside)
    if of_gain is not None:  # noqa: SIM102 (known when compiling, unlike the next condition)
        if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
            total = tl.zeros([BLOCK_C], tl.float64)
            for start in range(0, channels, BLOCK_C):
                some = start + tl.arange(0, BLOCK_C)
                total += tl.load(maps + 4 * channels + some, mask=some < channels, other=0.0).to(tl.float64)
            tl.store(of_gain, tl.sum(total, axis=0).to(ACC))


def forward(z: Tensor, shortcut: Tensor, gain: Tensor, norm: OneNorm) -> tuple[Tensor, Tensor]:
    """y, and mean and rstd that the norm normalises by, (2, C) float64."""
    gamma, beta, *running, of_batch, eps, momentum = norm
    if z.numel() == 0 or not known(present(running), z.device):
        return reference.forward(z, shortcut, gain, norm)
    format = memory_format(z)
    z, shortcut = dense(z, format), dense(shortcut, format)
    rows, channels, inner = rows_and_channels(z, format)
    partials = of_tiles([z]) if of_batch else None
    tables = z.new_empty(2, channels, dtype=torch.float64)
    acc = accumulator(z.dtype)
    _one_norm_kernel[(triton.cdiv(channels, CHANNELS),)](
        None if partials is None else partials.table, *running, tables, rows,
        0 if partials is None else len(partials.table), channels, eps, momentum, rows / max(1, rows - 1),
        isnan(momentum), acc, 1 if partials is None else partials.of_tile, MERGED, CHANNELS, num_warps=8,
    )  # fmt: skip
    y, blocks = torch.empty_like(z), tile(rows, channels, _ELEMENTS)
    _norm_lerp_fwd_kernel[grid(rows, channels, blocks)](
        z, shortcut, gain, _row(gamma), _row(beta), tables, norm.batches, y, rows, channels, inner, acc, *blocks
    )
    return y, tables


def backward(
    grad: Tensor,
    z: Tensor,
    shortcut: Tensor,
    gain: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    tables: Tensor,
    of_batch: bool,
    need_z: bool,
    need_shortcut: bool,
    need_gain: bool,
    need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients (`asose_fast.ops.reference.norm_lerp.backward`)."""
    if z.numel() == 0:
        return reference.backward(
            grad, z, shortcut, gain, gamma, beta, tables, of_batch, need_z, need_shortcut, need_gain, need_affine
        )  # fmt: skip
    format = memory_format(z)
    grad, z, shortcut, tables = dense(grad, format), dense(z, format), dense(shortcut, format), tables.contiguous()
    rows, channels, inner = rows_and_channels(z, format)
    gamma, beta, acc, partials = _row(gamma), _row(beta), accumulator(z.dtype), None
    if need_gain or need_affine or (of_batch and need_z):
        partials = sums_of_tiles(grad, (z, shortcut), tables[:1], (True, need_gain), format)
    maps = z.new_empty(5, channels, dtype=accumulation_dtype(z.dtype))
    affine = [torch.empty_like(t) if need_affine and t is not None else None for t in (gamma, beta)]
    _norm_lerp_tables_kernel[(triton.cdiv(channels, SUMMED),)](
        partials, gain, gamma, beta, tables, *affine, maps, 0 if partials is None else len(partials), rows, channels,
        of_batch, need_gain, acc, SUMMANDS, SUMMED, num_warps=8,
    )  # fmt: skip
    of_z, of_shortcut = (torch.empty_like(z) if need else None for need in (need_z, need_shortcut))
    of_gain, blocks = torch.empty_like(gain) if need_gain else None, tile(rows, channels, _ELEMENTS)
    _norm_lerp_bwd_kernel[grid(rows, channels, blocks)](
        grad, z, gain, maps, of_z, of_shortcut, of_gain, rows, channels, inner, of_batch, acc, *blocks
    )
    found = of_z, of_shortcut, of_gain, *affine
    return tuple(z.new_empty(0) if t is None else t for t in found)  # type: ignore[return-value]


def _row(table: Tensor | None) -> Tensor | None:
    return None if table is None else table.contiguous()
