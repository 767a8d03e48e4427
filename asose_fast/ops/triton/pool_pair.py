# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`pool_pair` in Triton: a pass forward, and one backward, after another where the places of maxima were not kept."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense, empty_channels_last
from asose_fast.ops.pool_pair import out_shape
from asose_fast.ops.triton.batch_statistics import Partials, merged, no_sums, store_statistics, with_tile
from asose_fast.ops.triton.tiles import accumulator, aligned, grid, launched, pixel_tile, pixels

DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

_ELEMENTS = 1024
_TASKS = 1024
"""At most, each of which leaves statistics: enough for any GPU to be busy."""
_ELEMENTS_OF_GRADIENTS = 512
"""Fewer, because a thread keeps eight tables for each of its channels."""


@triton.constexpr_function
def _only(i: tl.constexpr, j: tl.constexpr, stride: tl.constexpr) -> tl.constexpr:
    # Every pixel is one of these elements of one window alone.
    return 1 <= i <= stride and 1 <= j <= stride


@launched
@triton.jit
def _pool_pair_fwd_kernel(
    x: tl.tensor,
    avg: tl.tensor,  # or None, like the next ones: known when compiling
    largest: tl.tensor,
    places: tl.tensor,
    active: tl.tensor,  # relu(x)
    partials: tl.tensor,  # (tasks, 2, 2, C): mean and squared deviations of avg and largest of a task
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    tiles: tl.int32,
    STRIDE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    of_avg = no_sums(BLOCK_C, ACC)
    of_largest = no_sums(BLOCK_C, ACC)
    for t in tl.range(0, tiles, num_stages=1):
        tile = tl.program_id(0) * tiles + t
        pixel, image, row, column, exists = pixels(images, out_height, out_width, tile, BLOCK_P)
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
                if active is not None and _only(i, j, STRIDE):
                    tl.store(active + at[:, None] + channel[None, :], tl.where(v <= 0, 0.0, v), mask=valid)
                taken = valid & ((v > best) | (v != v))
                best = tl.where(taken, v, best)
                where = tl.where(taken, i * 3 + j, where)
        to = (pixel * channels)[:, None] + channel[None, :]
        inside = exists[:, None] & present[None, :]
        if avg is not None:
            rows = tl.minimum(top + 3, height) - tl.maximum(top, 0)
            columns = tl.minimum(left + 3, width) - tl.maximum(left, 0)
            average = (total / (rows * columns).to(ACC)[:, None]).to(avg.dtype.element_ty)
            tl.store(avg + to, average, mask=inside)
            if largest is not None:
                tl.store(largest + to, best.to(largest.dtype.element_ty), mask=inside)
            if partials is not None:
                of_avg = with_tile(of_avg, average.to(ACC), inside, exists, t == 0)
                of_largest = with_tile(of_largest, best, inside, exists, t == 0)
        if places is not None:
            tl.store(places + to, where.to(tl.uint8), mask=inside)
    if partials is not None:
        task, values = tl.program_id(0).to(tl.int64), images.to(tl.int64) * out_height * out_width
        count = tl.minimum(values - task * tiles * BLOCK_P, tiles * BLOCK_P)
        store_statistics(partials + task * 4 * channels, of_avg, count, channels, channel, present)
        store_statistics(partials + (task * 4 + 2) * channels, of_largest, count, channels, channel, present)


@triton.jit
def _of_pool(
    grad: tl.tensor,
    z: tl.tensor,  # what was pooled, or None
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
            value += slope * (z - center) + shift
        value = tl.where(scale != 0, value, 0.0)
    return tl.where(valid, value, 0.0)


@launched
@triton.jit
def _pool_pair_bwd_kernel(
    grad_avg: tl.tensor,  # or None, like all but the last pointers
    grad_max: tl.tensor,
    z_avg: tl.tensor,
    tables: tl.tensor,
    places: tl.tensor,
    terms: tl.tuple,
    factors: tl.tensor,
    x: tl.tensor,
    grad_x: tl.tensor,
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    FACTORS: tl.constexpr,  # of the first terms
    RECTIFIED: tl.constexpr,  # the last terms, which are gradients of relu(x)
    OF_MAX: tl.constexpr,  # whether a norm of the maxima used their statistics
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
    own = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    if x is not None:
        own = tl.load(x + to, mask=stored, other=0.0).to(ACC)
    for k in tl.static_range(len(terms)):
        term = tl.load(terms[k] + to, mask=stored, other=0.0).to(ACC)
        if k < FACTORS:
            term *= tl.load(factors + k).to(ACC)
        if k >= len(terms) - RECTIFIED:
            term = tl.where(own <= 0, 0.0, term)
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
                z = None
                if z_avg is not None:
                    z = tl.load(z_avg + at, mask=valid, other=0.0).to(ACC)
                total += _of_pool(grad_avg, z, tables, at, valid, channels, channel, present, 0, ACC) / count
            if grad_max is not None:
                # Where the maximum is at the pixel, it is the pixel.
                value = _of_pool(
                    grad_max, own if OF_MAX else None, tables, at, valid, channels, channel, present, 1, ACC
                )
                total += tl.where(tl.load(places + at, mask=valid, other=9) == i * 3 + j, value, 0.0)
    tl.store(grad_x + to, total.to(grad_x.dtype.element_ty), mask=stored)


def forward(x: Tensor, stride: int, need_avg: bool, need_max: bool) -> tuple[Tensor, Tensor]:
    """avg and max, empty where they are not needed; one pass gives both."""
    x = dense(x)
    avg, largest = (empty_channels_last(x, out_shape(x, stride)) for _ in range(2))
    _over_windows(x, avg, largest, None, None, stride)
    return avg if need_avg else x.new_empty(0), largest if need_max else x.new_empty(0)


def for_norms(x: Tensor, stride: int, need_active: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """avg, max, their means and variances, the places of the maxima and, empty where it is not needed, relu(x)
    (`asose_fast.ops.pool_pair.pool_pair_fwd`). With stride 1, max is left empty: the sum that follows reads x, and
    finds the maxima in it."""
    x = dense(x)
    avg = empty_channels_last(x, out_shape(x, stride))
    largest = None if stride == 1 else torch.empty_like(avg)
    places = torch.empty_like(avg, dtype=torch.uint8)
    active = torch.empty_like(x) if need_active else None
    partials = _over_windows(x, avg, largest, places, active, stride, statistics=True)
    assert partials is not None
    maxima, active = (x.new_empty(0) if t is None else t for t in (largest, active))
    return avg, maxima, *merged(partials), places, active


def backward(
    grads: list[Tensor | None],
    zs: list[Tensor | None],
    tables: Tensor,
    x: Tensor,
    stride: int,
    terms: list[Tensor],
    factors: Tensor,
    rectified: int,
    places: Tensor | None,
) -> Tensor:
    """dL/dx of the poolings whose gradient is there, plus the terms (`asose_fast.ops.pool_pair.backward`)."""
    x = dense(x)
    grad_x = torch.empty_like(x)
    if x.numel() == 0:
        return grad_x
    out = out_shape(x, stride)
    if grads[1] is not None and places is None:
        places = torch.empty(out, dtype=torch.uint8, device=x.device, memory_format=torch.channels_last)
        _over_windows(x, None, None, places, None, stride)
    n, c, h, w = x.shape
    of_max = grads[1] is not None and zs[1] is not None
    blocks = pixel_tile(x.shape, _ELEMENTS_OF_GRADIENTS)
    table = tables.to(accumulation_dtype(x.dtype)).contiguous() if len(tables) else None
    _pool_pair_bwd_kernel[grid(n * h * w, c, blocks)](
        *(None if t is None else dense(t) for t in (*grads, zs[0])), table,
        None if places is None else dense(places),
        tuple(dense(t) for t in terms), factors.contiguous() if len(factors) else None,
        x if rectified or of_max else None, grad_x,
        n, c, h, w, *out[2:], len(factors), rectified, of_max, stride, accumulator(x.dtype), *blocks,
    )  # fmt: skip
    return grad_x


def _over_windows(
    x: Tensor,
    avg: Tensor | None,
    largest: Tensor | None,
    places: Tensor | None,
    active: Tensor | None,
    stride: int,
    *,
    statistics: bool = False,
) -> Partials | None:
    """Writes what is there of avg, largest, places and active; the statistics of avg and largest where wanted."""
    n, c, h, w = x.shape
    height, width = out_shape(x, stride)[2:]
    rows, tiles = n * height * width, 1
    blocks = pixel_tile((n, c, height, width), _ELEMENTS)
    table = None
    if statistics:
        tiles = max(triton.cdiv(triton.cdiv(rows, blocks[0]), _TASKS), 1)
        table = x.new_empty(triton.cdiv(rows, blocks[0] * tiles), 2, 2, c, dtype=torch.float64)
    if x.numel():
        _pool_pair_fwd_kernel[grid(rows, c, (blocks[0] * tiles, *blocks[1:]))](
            x, avg, largest, places, active, table, n, c, h, w, height, width, tiles, stride, accumulator(x.dtype),
            *blocks, num_warps=8 if statistics else 4,
        )  # fmt: skip
    return None if table is None else Partials(table, rows, blocks[0] * tiles)
