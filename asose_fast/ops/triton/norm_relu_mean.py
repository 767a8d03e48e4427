# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`norm_relu_mean` in Triton: two passes over memory forward, of which the first takes statistics, and one backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import dense, memory_format
from asose_fast.ops.library import present
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import norm_relu_mean as reference
from asose_fast.ops.triton import batch_statistics
from asose_fast.ops.triton.merging import Measured
from asose_fast.ops.triton.one_norm import from_running, of_norm, row_of
from asose_fast.ops.triton.running import known
from asose_fast.ops.triton.sums import CHANNELS, ELEMENTS, SUMMANDS, WARPS
from asose_fast.ops.triton.tiles import Blocks, accumulator, aligned, grid, launched, rows_and_channels, tile

DTYPES = FLOATS

_ELEMENTS = 2048
_PROGRAMS, _FEW_CHANNELS = 512, 16
"""With fewer programs, each has so few channels, which are a sector of memory: more are busy then."""


@triton.jit
def _normal(
    x: tl.tensor,
    tables: tl.tensor,
    gamma: tl.tensor,  # or None, like beta
    beta: tl.tensor,
    image: tl.tensor,
    pixel: tl.tensor,
    pixels: tl.int32,
    channels: tl.int64,
    channel: tl.tensor,
    there: tl.tensor,
    INNER: tl.constexpr,
    ACC: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    # Where pixels of an image lie, which exist, their distance from the mean rounded to ACC, and BN(x).
    mean, _, scale = of_norm(tables, gamma, channels, channel, there)
    center = mean.to(ACC)
    offset = scale * (center.to(tl.float64) - mean)
    if beta is not None:
        offset += tl.load(beta + channel, mask=there, other=0.0).to(tl.float64)
    row = image.to(tl.int64) * pixels + pixel
    at = (row // INNER * INNER * channels + row % INNER)[:, None] + channel[None, :] * INNER
    inside = (pixel < pixels)[:, None] & there[None, :]
    distance = tl.load(x + at, mask=inside, other=0.0).to(ACC) - center[None, :]
    return at, inside, distance, scale.to(ACC)[None, :] * distance + offset.to(ACC)[None, :]


@launched
@triton.jit
def _norm_relu_mean_fwd_kernel(
    x: tl.tensor,
    tables: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    counts: tl.tuple,  # of the batches that the norm has seen, to be counted up
    y: tl.tensor,
    active: tl.tensor,  # (2, N, C)
    images: tl.int64,
    pixels: tl.int32,
    channels: tl.int64,
    INNER: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    image = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < channels
    total = tl.zeros([BLOCK_C], tl.float64)
    count = total
    distances = total
    for start in tl.range(0, pixels, BLOCK_P):
        _, inside, distance, normal = _normal(
            x, tables, gamma, beta, image, start + tl.arange(0, BLOCK_P), pixels, channels, channel, there, INNER, ACC
        )
        on = inside & ~(normal <= 0)  # NaN included
        total += tl.sum(tl.where(on, normal, 0.0), axis=0)
        count += tl.sum(on.to(tl.int32), axis=0)
        distances += tl.sum(tl.where(on, distance, 0.0), axis=0)
    mean, _, _ = of_norm(tables, None, channels, channel, there)
    to = image.to(tl.int64) * channels + channel
    tl.store(y + to, (total / pixels).to(ACC).to(y.dtype.element_ty), mask=there)
    tl.store(active + to, count, mask=there)
    distances += count * (mean.to(ACC).to(tl.float64) - mean)
    tl.store(active + images * channels + to, distances, mask=there)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        for i in tl.static_range(len(counts)):
            tl.store(counts[i], tl.load(counts[i]) + 1)


@launched
@triton.jit
def _norm_relu_mean_sums_kernel(
    grad: tl.tensor,
    active: tl.tensor,
    tables: tl.tensor,
    gamma: tl.tensor,
    of_gamma: tl.tensor,  # or None, like of_beta
    of_beta: tl.tensor,
    maps: tl.tensor,  # (2, C): slope and shift of dL/dx
    images: tl.int64,
    pixels: tl.int32,
    channels: tl.int64,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < channels
    mean, rstd, scale = of_norm(tables, gamma, channels, channel, there)
    of_count = tl.zeros([BLOCK_T, BLOCK_C], tl.float64)
    of_distance = of_count
    for start in tl.range(0, images, BLOCK_T):
        image = start + tl.arange(0, BLOCK_T).to(tl.int64)
        at = image[:, None] * channels + channel[None, :]
        inside = (image < images)[:, None] & there[None, :]
        count = tl.load(active + at, mask=inside, other=0.0)
        distances = tl.load(active + images * channels + at, mask=inside, other=0.0)
        g = tl.load(grad + at, mask=inside, other=0.0).to(ACC).to(tl.float64) / pixels
        g = tl.where(count == 0, 0.0, g)
        of_count += g * count
        of_distance += g * distances
    s0, s1 = tl.sum(of_count, axis=0), tl.sum(of_distance, axis=0) * rstd
    if of_gamma is not None:
        tl.store(of_gamma + channel, s1.to(ACC).to(of_gamma.dtype.element_ty), mask=there)
    if of_beta is not None:
        tl.store(of_beta + channel, s0.to(ACC).to(of_beta.dtype.element_ty), mask=there)
    share = -scale / (images * pixels).to(tl.float64)
    slope = share * rstd * s1
    tl.store(maps + channel, slope.to(ACC), mask=there)
    shift = share * s0 + slope * (mean.to(ACC).to(tl.float64) - mean)
    tl.store(maps + channels + channel, shift.to(ACC), mask=there)


@launched
@triton.jit
def _norm_relu_mean_bwd_kernel(
    grad: tl.tensor,
    x: tl.tensor,
    tables: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    maps: tl.tensor,  # or None, where statistics are not of the batch
    of_x: tl.tensor,
    tasks: tl.int32,  # an image
    pixels: tl.int32,
    channels: tl.int64,
    INNER: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    image = tl.program_id(0) // tasks
    pixel = tl.program_id(0) % tasks * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < channels
    at, inside, distance, normal = _normal(
        x, tables, gamma, beta, image, pixel, pixels, channels, channel, there, INNER, ACC
    )
    _, _, scale = of_norm(tables, gamma, channels, channel, there)
    g = tl.load(grad + image.to(tl.int64) * channels + channel, mask=there, other=0.0).to(ACC).to(tl.float64)
    value = tl.where(normal <= 0, 0.0, (scale * g / pixels).to(ACC)[None, :])
    if maps is not None:
        slope = tl.load(maps + channel, mask=there, other=0.0)
        shift = tl.load(maps + channels + channel, mask=there, other=0.0)
        value += slope[None, :] * distance + shift[None, :]
    tl.store(of_x + at, value.to(of_x.dtype.element_ty), mask=inside)


def forward(x: Tensor, norm: OneNorm) -> tuple[Tensor, Tensor, Tensor]:
    """y, and what backward knows the norm by (`asose_fast.ops.reference.norm_relu_mean.forward`)."""
    if not x.numel() or not known(present([norm.running_mean, norm.running_var, norm.batches]), x.device):
        return reference.forward(x, norm)
    format, (images, channels, *_) = memory_format(x), x.shape
    x, tables = dense(x, format), x.new_empty(2, channels, dtype=torch.float64)
    if norm.of_batch:
        batch_statistics.take([x], Measured(norm, tables))
    elif norm.running_mean is not None:
        from_running(norm, tables)
    else:
        tables[0], tables[1] = 0, 1
    y, active = x.new_empty(images, channels), x.new_empty(2, images, channels, dtype=torch.float64)
    rows, _, inner = rows_and_channels(x, format)
    pixels = rows // images
    blocks = _long_tile(images, pixels, channels)
    _norm_relu_mean_fwd_kernel[images, triton.cdiv(channels, blocks[1])](
        x, tables, row_of(norm.gamma), row_of(norm.beta), tuple(present([norm.batches])), y, active, images, pixels,
        channels, inner, accumulator(x.dtype), *blocks, num_warps=WARPS,
    )  # fmt: skip
    return y, tables, active


def _long_tile(images: int, pixels: int, channels: int) -> Blocks:
    blocks = tile(pixels, channels, ELEMENTS)
    if images * triton.cdiv(channels, blocks[1]) >= _PROGRAMS or blocks[1] <= _FEW_CHANNELS:
        return blocks
    return min(triton.next_power_of_2(pixels), ELEMENTS // _FEW_CHANNELS), _FEW_CHANNELS, blocks[2]


def backward(
    grad: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    tables: Tensor,
    active: Tensor,
    of_batch: bool,
    need_x: bool,
    need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients (`asose_fast.ops.reference.norm_relu_mean.backward`)."""
    if not x.numel():
        return reference.backward(grad, x, gamma, beta, tables, active, of_batch, need_x, need_affine)
    format, (images, channels, *_) = memory_format(x), x.shape
    x, grad, tables, active = dense(x, format), grad.contiguous(), tables.contiguous(), active.contiguous()
    gamma, beta, (rows, _, inner) = row_of(gamma), row_of(beta), rows_and_channels(x, format)
    pixels, acc = rows // images, accumulator(x.dtype)
    of_gamma, of_beta = (torch.empty_like(t) if need_affine and t is not None else None for t in (gamma, beta))
    maps = x.new_empty(2, channels, dtype=accumulation_dtype(x.dtype))
    if (need_x and of_batch) or of_gamma is not None or of_beta is not None:
        _norm_relu_mean_sums_kernel[(triton.cdiv(channels, CHANNELS),)](
            grad, active, tables, gamma, of_gamma, of_beta, maps, images, pixels, channels, acc,
            SUMMANDS // CHANNELS, CHANNELS,
        )  # fmt: skip
    of_x = torch.empty_like(x) if need_x else None
    if of_x is not None:
        blocks = tile(pixels, channels, _ELEMENTS)
        tasks, groups = grid(pixels, channels, blocks)
        _norm_relu_mean_bwd_kernel[images * tasks, groups](
            grad, x, tables, gamma, beta, maps if of_batch else None, of_x, tasks, pixels, channels, inner, acc, *blocks
        )  # fmt: skip
    of_x, of_gamma, of_beta = (x.new_empty(0) if t is None else t for t in (of_x, of_gamma, of_beta))
    return of_x, of_gamma, of_beta
