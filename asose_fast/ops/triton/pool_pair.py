# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`pool_pair` in Triton: a pass forward; backward one that finds the maxima again and one over the inputs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense
from asose_fast.ops.pool_pair import out_shape
from asose_fast.ops.triton.tiles import accumulator, aligned, grid, launched, pixel_tile, pixels

DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

_ELEMENTS = 1024
_ELEMENTS_OF_GRADIENTS = 512
"""Fewer, because a thread keeps eight tables for each of its channels."""


@launched
@triton.jit
def _pool_pair_fwd_kernel(
    x: tl.tensor,
    avg: tl.tensor,  # or None where `places` is wanted instead
    largest: tl.tensor,
    places: tl.tensor,
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    STRIDE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    pixel, image, row, column, exists = pixels(images, out_height, out_width, tl.program_id(0), BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    top, left = row * STRIDE - 1, column * STRIDE - 1
    total = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    best = tl.full([BLOCK_P, BLOCK_C], float("-inf"), ACC)
    # The first element of the window, which is taken where all are -inf.
    start = tl.where(top < 0, 3, 0) + tl.where(left < 0, 1, 0)
    where = tl.zeros([BLOCK_P, BLOCK_C], tl.int32) + start[:, None]
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            r, c = top + i, left + j
            valid = (exists & (r >= 0) & (r < height) & (c >= 0) & (c < width))[:, None] & present[None, :]
            at = ((image * height + r) * width + c) * channels
            v = tl.load(x + at[:, None] + channel[None, :], mask=valid, other=0.0).to(ACC)
            total += v
            taken = valid & ((v > best) | (v != v))
            best = tl.where(taken, v, best)
            where = tl.where(taken, i * 3 + j, where)
    to = (pixel * channels)[:, None] + channel[None, :]
    stored = exists[:, None] & present[None, :]
    if avg is not None:
        rows = tl.minimum(top + 3, height) - tl.maximum(top, 0)
        columns = tl.minimum(left + 3, width) - tl.maximum(left, 0)
        total = total / (rows * columns).to(ACC)[:, None]
        tl.store(avg + to, total.to(avg.dtype.element_ty), mask=stored)
        tl.store(largest + to, best.to(largest.dtype.element_ty), mask=stored)
    else:
        tl.store(places + to, where.to(tl.uint8), mask=stored)


@triton.jit
def _of_pool(
    grad: tl.tensor,
    z: tl.tensor,  # or None
    tables: tl.tensor,  # or None
    at: tl.tensor,
    valid: tl.tensor,
    channels: tl.int64,
    channel: tl.tensor,
    present: tl.tensor,
    POOL: tl.constexpr,
    ACC: tl.constexpr,
) -> tl.tensor:
    # dL/d(pooled), what a batch norm makes of it included.
    value = tl.load(grad + at, mask=valid, other=0.0).to(ACC)
    if tables is not None:
        table = tables + POOL * 4 * channels + channel
        scale = tl.load(table, mask=present, other=0.0)[None, :]
        value *= scale
        if z is not None:
            center = tl.load(table + channels, mask=present, other=0.0)[None, :]
            slope = tl.load(table + 2 * channels, mask=present, other=0.0)[None, :]
            shift = tl.load(table + 3 * channels, mask=present, other=0.0)[None, :]
            value += slope * (tl.load(z + at, mask=valid, other=0.0).to(ACC) - center) + shift
        value = tl.where(scale != 0, value, 0.0)
    return tl.where(valid, value, 0.0)


@launched
@triton.jit
def _pool_pair_bwd_kernel(
    grad_avg: tl.tensor,  # or None, like all but the last pointers
    grad_max: tl.tensor,
    z_avg: tl.tensor,
    z_max: tl.tensor,
    tables: tl.tensor,
    places: tl.tensor,
    terms: tl.tuple,
    factors: tl.tensor,
    grad_x: tl.tensor,
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    FACTORS: tl.constexpr,  # of the first terms
    STRIDE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    pixel, image, row, column, exists = pixels(images, height, width, tl.program_id(0), BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    to = (pixel * channels)[:, None] + channel[None, :]
    stored = exists[:, None] & present[None, :]
    total = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    for k in tl.static_range(len(terms)):
        term = tl.load(terms[k] + to, mask=stored, other=0.0).to(ACC)
        if k < FACTORS:
            term *= tl.load(factors + k).to(ACC)
        total += term
    # The windows in which the pixel is element (i, j).
    for i in tl.static_range(3):
        for j in tl.static_range(3):
            top, left = row + 1 - i, column + 1 - j
            r, c = top // STRIDE, left // STRIDE
            valid = exists & (top >= 0) & (left >= 0) & (top % STRIDE == 0) & (left % STRIDE == 0)
            valid = (valid & (r < out_height) & (c < out_width))[:, None] & present[None, :]
            at = (((image * out_height + r) * out_width + c) * channels)[:, None] + channel[None, :]
            if grad_avg is not None:
                rows = tl.minimum(top + 2, height) - tl.maximum(top - 1, 0)
                columns = tl.minimum(left + 2, width) - tl.maximum(left - 1, 0)
                count = tl.maximum(rows * columns, 1).to(ACC)[:, None]  # of no window, it is not used
                total += _of_pool(grad_avg, z_avg, tables, at, valid, channels, channel, present, 0, ACC) / count
            if grad_max is not None:
                value = _of_pool(grad_max, z_max, tables, at, valid, channels, channel, present, 1, ACC)
                total += tl.where(tl.load(places + at, mask=valid, other=9) == i * 3 + j, value, 0.0)
    tl.store(grad_x + to, total.to(grad_x.dtype.element_ty), mask=stored)


def forward(x: Tensor, stride: int, need_avg: bool, need_max: bool) -> tuple[Tensor, Tensor]:
    """avg and max, empty where they are not needed; one pass gives both."""
    x = dense(x)
    avg = torch.empty(out_shape(x, stride), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    largest = torch.empty_like(avg)
    _over_windows(x, avg, largest, None, stride)
    return avg if need_avg else x.new_empty(0), largest if need_max else x.new_empty(0)


def backward(
    grads: list[Tensor | None],
    zs: list[Tensor | None],
    tables: Tensor,
    x: Tensor,
    stride: int,
    terms: list[Tensor],
    factors: Tensor,
) -> Tensor:
    """dL/dx of the poolings whose gradient is there, plus the terms (`asose_fast.ops.pool_pair.backward`)."""
    x = dense(x)
    grad_x = torch.empty_like(x)
    if x.numel() == 0:
        return grad_x
    out = out_shape(x, stride)
    places = None
    if grads[1] is not None:
        places = torch.empty(out, dtype=torch.uint8, device=x.device, memory_format=torch.channels_last)
        _over_windows(x, None, None, places, stride)
    n, c, h, w = x.shape
    blocks = pixel_tile(x.shape, _ELEMENTS_OF_GRADIENTS)
    table = tables.to(accumulation_dtype(x.dtype)).contiguous() if len(tables) else None
    _pool_pair_bwd_kernel[grid(n * h * w, c, blocks)](
        *(None if t is None else dense(t) for t in (*grads, *zs)), table,
        places, tuple(dense(t) for t in terms), factors.contiguous() if len(factors) else None, grad_x,
        n, c, h, w, *out[2:], len(factors), stride, accumulator(x.dtype), *blocks,
    )  # fmt: skip
    return grad_x


def _over_windows(x: Tensor, avg: Tensor | None, largest: Tensor | None, places: Tensor | None, stride: int) -> None:
    n, c, h, w = x.shape
    height, width = out_shape(x, stride)[2:]
    if x.numel() == 0:
        return
    blocks = pixel_tile((n, c, height, width), _ELEMENTS)
    _pool_pair_fwd_kernel[grid(n * height * width, c, blocks)](
        x, avg, largest, places, n, c, h, w, height, width, stride, accumulator(x.dtype), *blocks
    )
