# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`norm_lerp` in Triton: two passes over memory each way, of which the first makes the tables of channels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import dense, memory_format
from asose_fast.ops.library import present
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import norm_lerp as reference
from asose_fast.ops.triton import batch_statistics
from asose_fast.ops.triton.blend import store_gain
from asose_fast.ops.triton.last_program import counters, group_size
from asose_fast.ops.triton.merging import Measured
from asose_fast.ops.triton.one_norm import from_running, of_norm, row_of
from asose_fast.ops.triton.running import known
from asose_fast.ops.triton.sums import ELEMENTS, SUMMANDS_OF_LAST, WARPS, added_up, added_up_by_last, sums_of_tile
from asose_fast.ops.triton.tiles import accumulator, aligned, grid, launched, place, rows_and_channels, tile

DTYPES = FLOATS

_ELEMENTS = 2048


@launched
@triton.jit
def _norm_lerp_fwd_kernel(
    z: tl.tensor,
    shortcut: tl.tensor,
    gain: tl.tensor,  # or None, where y is the norm's
    gamma: tl.tensor,  # or None, like beta
    beta: tl.tensor,
    tables: tl.tensor,
    counts: tl.tuple,  # of the batches that norms have seen, to be counted up
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
    mean, _, scale = of_norm(tables, gamma, channels, channel, there)
    center = mean.to(ACC)
    offset = scale * (center.to(tl.float64) - mean)
    if beta is not None:
        offset += tl.load(beta + channel, mask=there, other=0.0).to(tl.float64)
    v = tl.load(z + at, mask=inside, other=0.0).to(ACC)
    value = scale.to(ACC)[None, :] * (v - center[None, :]) + offset.to(ACC)[None, :]
    if gain is not None:
        g = tl.load(gain).to(ACC)
        s = tl.load(shortcut + at, mask=inside, other=0.0).to(ACC)
        value = tl.where(g != 0, g * value, 0.0) + (1 - g) * s
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        for i in tl.static_range(len(counts)):
            tl.store(counts[i], tl.load(counts[i]) + 1)


@triton.jit
def _store_maps(
    sums: tl.tensor,  # (groups, 2 or 3, C): of dL/dy, and of that times z - mean and the shortcut; or None
    gain: tl.tensor,  # or None, like the next ones
    gamma: tl.tensor,
    beta: tl.tensor,
    tables: tl.tensor,
    of_gamma: tl.tensor,
    of_beta: tl.tensor,
    maps: tl.tensor,  # (5, C): what makes dL/dz of dL/dy, and the channels' parts of dL/dgain
    groups: tl.int32,
    count: tl.int64,
    channels: tl.int64,
    channel: tl.tensor,
    there: tl.tensor,
    ROWS: tl.constexpr,
    OF_BATCH: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    mean, rstd, scale = of_norm(tables, gamma, channels, channel, there)
    g = tl.full([BLOCK_C], 1, tl.float64)
    if gain is not None:
        g *= tl.load(gain).to(tl.float64)
    center = mean.to(ACC).to(tl.float64)
    slope = tl.zeros([BLOCK_C], tl.float64)
    shift = slope
    if sums is not None:
        s0 = added_up(sums + channel, ROWS * channels, groups, there, BLOCK_T, BLOCK_C)
        of_z = added_up(sums + channels + channel, ROWS * channels, groups, there, BLOCK_T, BLOCK_C)
        s1 = rstd * (of_z - (mean - center) * s0)
        of_branch = s1
        if gamma is not None:
            of_branch *= tl.load(gamma + channel, mask=there, other=0.0).to(tl.float64)
        if beta is not None:
            of_branch += tl.load(beta + channel, mask=there, other=0.0).to(tl.float64) * s0
        if ROWS == 3:
            of_shortcut = added_up(sums + 2 * channels + channel, ROWS * channels, groups, there, BLOCK_T, BLOCK_C)
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
def _norm_lerp_sums_kernel(
    grad: tl.tensor,
    xs: tl.tuple,  # z and, where the gain needs a gradient, the shortcut
    partials: tl.tensor,  # (tasks, 1 + xs, C)
    of_groups: tl.tensor,  # (groups, 1 + xs, C)
    counters: tl.tensor,
    gain: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    tables: tl.tensor,
    of_gamma: tl.tensor,
    of_beta: tl.tensor,
    maps: tl.tensor,
    tasks: tl.int32,
    size: tl.int32,
    rows: tl.int64,
    channels: tl.int64,
    INNER: tl.constexpr,
    READ: tl.constexpr,
    OF_BATCH: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    ROWS: tl.constexpr = 1 + len(READ)
    BLOCK_T: tl.constexpr = SUMMANDS_OF_LAST // BLOCK_C
    channel, there = sums_of_tile(
        grad, xs, tables, partials, None, rows, channels, 1, INNER, READ, 0, 1, ACC, BLOCK_P, BLOCK_C
    )  # fmt: skip
    if added_up_by_last(
        partials, of_groups, counters, tasks, size, channels, channel, there, ROWS, BLOCK_T, BLOCK_C
    ):  # fmt: skip
        _store_maps(
            of_groups, gain, gamma, beta, tables, of_gamma, of_beta, maps, tl.cdiv(tasks, size), rows, channels,
            channel, there, ROWS, OF_BATCH, ACC, BLOCK_T, BLOCK_C,
        )  # fmt: skip


@launched
@triton.jit
def _norm_lerp_tables_kernel(
    gain: tl.tensor,
    gamma: tl.tensor,
    tables: tl.tensor,
    maps: tl.tensor,
    channels: tl.int64,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < channels
    _store_maps(
        None, gain, gamma, None, tables, None, None, maps, 0, 0, channels, channel, there, 0, False, ACC, 1, BLOCK_C
    )  # fmt: skip


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
            store_gain(of_gain, maps, channels, ACC, BLOCK_C)


def forward(z: Tensor, shortcut: Tensor, gain: Tensor, norm: OneNorm) -> tuple[Tensor, Tensor]:
    """y, and mean and rstd that the norm normalises by, (2, C) float64."""
    if z.numel() == 0 or not known(present([norm.running_mean, norm.running_var, norm.batches]), z.device):
        return reference.forward(z, shortcut, gain, norm)
    format = memory_format(z)
    z, shortcut = dense(z, format), dense(shortcut, format)
    tables = z.new_empty(2, z.shape[1], dtype=torch.float64)
    if norm.of_batch:
        batch_statistics.take([z], Measured(norm, tables))
    else:
        from_running(norm, tables)
    return blended(z, shortcut, gain, norm, tables, present([norm.batches]), format), tables


def blended(
    z: Tensor,
    shortcut: Tensor | None,
    gain: Tensor | None,
    norm: OneNorm,
    tables: Tensor,
    counts: list[Tensor],
    format: torch.memory_format,
) -> Tensor:
    """y, from tensors that are dense in `format`; the norm's alone without a gain. Counts of batches are moved on."""
    (rows, channels, inner), y = rows_and_channels(z, format), torch.empty_like(z, memory_format=format)
    blocks = tile(rows, channels, _ELEMENTS)
    _norm_lerp_fwd_kernel[grid(rows, channels, blocks)](
        z, shortcut, gain, row_of(norm.gamma), row_of(norm.beta), tables, tuple(counts), y, rows, channels, inner,
        accumulator(z.dtype), *blocks,
    )  # fmt: skip
    return y


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
    maps, affine = maps_of(
        grad, z, shortcut, gain, gamma, beta, tables, of_batch, need_z, need_gain, need_affine, format
    )
    of_z, of_shortcut = (torch.empty_like(z) if need else None for need in (need_z, need_shortcut))
    of_gain = torch.empty_like(gain) if need_gain else None
    hand_back(grad, gain, maps, of_gain, of_shortcut, z, of_z, of_batch, format)
    found = of_z, of_shortcut, of_gain, *affine
    return tuple(z.new_empty(0) if t is None else t for t in found)  # type: ignore[return-value]


def maps_of(
    grad: Tensor,
    z: Tensor,
    shortcut: Tensor | None,
    gain: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    tables: Tensor,
    of_batch: bool,
    need_z: bool,
    need_gain: bool,
    need_affine: bool,
    format: torch.memory_format,
) -> tuple[Tensor, list[Tensor | None]]:
    """What makes dL/dz of dL/dy, from tensors that are dense in `format`, and the gradients of gamma and beta.

    Returns:
        The map, (5, C): dL/dz = row 0 * dL/dy + row 2 * (z - row 1) + row 3, and the channels' parts of the gain's
        gradient in the last row. Rows hold anything where they are not needed.
    """
    (rows, channels, inner), gamma, beta = rows_and_channels(z, format), row_of(gamma), row_of(beta)
    maps = z.new_empty(5, channels, dtype=accumulation_dtype(z.dtype))
    affine = [torch.empty_like(t) if need_affine and t is not None else None for t in (gamma, beta)]
    blocks, acc = tile(rows, channels, ELEMENTS), accumulator(z.dtype)
    if not (need_gain or need_affine or (of_batch and need_z)):
        _norm_lerp_tables_kernel[(triton.cdiv(channels, blocks[1]),)](
            gain, gamma, tables, maps, channels, acc, blocks[1]
        )  # fmt: skip
        return maps, affine
    xs = (z, shortcut) if need_gain and shortcut is not None else (z,)
    tasks, columns = grid(rows, channels, blocks)
    size = group_size(tasks)
    groups = triton.cdiv(tasks, size)
    partials = maps.new_empty(tasks, 1 + len(xs), channels)
    of_groups = maps.new_empty(groups, 1 + len(xs), channels, dtype=torch.float64)
    _norm_lerp_sums_kernel[(tasks, columns)](
        grad, xs, partials, of_groups, counters(z.device, columns * (groups + 1)), gain, gamma, beta, tables, *affine,
        maps, tasks, size, rows, channels, inner, (True,) * len(xs), of_batch, acc, *blocks, num_warps=WARPS,
    )  # fmt: skip
    return maps, affine


def hand_back(
    grad: Tensor,
    gain: Tensor,
    maps: Tensor,
    of_gain: Tensor | None,
    of_shortcut: Tensor | None,
    z: Tensor | None,
    of_z: Tensor | None,
    of_batch: bool,
    format: torch.memory_format,
) -> None:
    """Writes the gradients `of_gain`, `of_shortcut` and `of_z` where they are wanted, from tensors that are dense in
    `format`."""
    rows, channels, inner = rows_and_channels(grad, format)
    blocks = tile(rows, channels, _ELEMENTS)
    _norm_lerp_bwd_kernel[grid(rows, channels, blocks)](
        grad, z, gain, maps, of_z, of_shortcut, of_gain, rows, channels, inner, of_batch,
        accumulator(grad.dtype), *blocks,
    )  # fmt: skip
