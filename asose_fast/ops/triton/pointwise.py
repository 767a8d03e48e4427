# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`pointwise` in Triton: its products read rectified pixels where they lie, and gradients are written once."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import dense, empty_channels_last
from asose_fast.ops.reference.pointwise import out_shape
from asose_fast.ops.triton.dots import Cut, depth_of, number_of, one_of, types_of, warps_of
from asose_fast.ops.triton.sums import added_up
from asose_fast.ops.triton.tiles import aligned, launched, pixels

DTYPES = FLOATS

_PIXELS, _PIXELS_OF_SUMS = 64, 32
"""Of a tile, and of a tile of weight gradients."""
_TASKS = 128
"""Tasks of weight gradients at most, each of which leaves matrices."""
_SUMMANDS = 32
"""Partial sums of a weight's gradient that are added up at a time."""


@triton.jit
def _active(
    x: tl.tensor,
    image: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    exists: tl.tensor,
    height: tl.int32,
    width: tl.int32,
    channels: tl.int64,
    channel: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    # Rectified pixels, 0 beyond the image, where they lie, and which there are.
    inside = (exists & (row < height) & (column < width))[:, None] & (channel < channels)[None, :]
    at = (((image * height + row) * width + column) * channels)[:, None] + channel[None, :]
    v = tl.load(x + at, mask=inside, other=0.0)
    return tl.where(v <= 0, 0.0, v), at, inside  # NaN stays


@launched
@triton.jit
def _pointwise_fwd_kernel(
    x: tl.tensor,
    weights: tl.tuple,
    z: tl.tensor,
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    outputs: tl.int64,  # of all weights
    OUTPUTS: tl.constexpr,  # of each weight
    FIRST: tl.constexpr,  # the first of each
    EVEN: tl.constexpr,  # divides all these numbers
    STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    g = tl.program_id(2)
    weight, outputs = one_of(weights, g), aligned(outputs, EVEN)
    count, start_of = aligned(number_of(OUTPUTS, g), EVEN), aligned(number_of(FIRST, g), EVEN)
    pixel, image, row, column, exists = pixels(images, out_height, out_width, tl.program_id(0), BLOCK_P)
    out = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    BLOCK_K: tl.constexpr = depth_of(PRECISION, BLOCK_C)
    for start in tl.range(0, channels, BLOCK_K, num_stages=1):
        channel = start + tl.arange(0, BLOCK_K)
        v, _, _ = _active(x, image, row * STRIDE + g, column * STRIDE + g, exists, height, width, channels, channel)
        there = (channel < channels)[:, None] & (out < count)[None, :]
        w = tl.load(weight + out[None, :] * channels + channel[:, None], mask=there, other=0.0)
        total = tl.dot(v.to(TYPE), w.to(TYPE), total, input_precision=PRECISION, out_dtype=ACC)
    to = (pixel * outputs)[:, None] + (start_of + out)[None, :]
    tl.store(z + to, total.to(z.dtype.element_ty), mask=exists[:, None] & (out < count)[None, :])


@launched
@triton.jit
def _pointwise_inputs_kernel(
    grad: tl.tensor,
    x: tl.tensor,
    weights: tl.tuple,
    grad_x: tl.tensor,
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    outputs: tl.int64,
    OUTPUTS: tl.constexpr,
    FIRST: tl.constexpr,
    EVEN: tl.constexpr,
    STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    g = tl.program_id(2)  # as many as the stride: pixels of no weight have no gradient
    weight, outputs = one_of(weights, g), aligned(outputs, EVEN)
    count, start_of = aligned(number_of(OUTPUTS, g), EVEN), aligned(number_of(FIRST, g), EVEN)
    pixel, image, row, column, exists = pixels(images, out_height, out_width, tl.program_id(0), BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    BLOCK_K: tl.constexpr = depth_of(PRECISION, BLOCK_C)
    for start in tl.range(0, count, BLOCK_K, num_stages=1):
        out = start + tl.arange(0, BLOCK_K)
        there = exists[:, None] & (out < count)[None, :]
        d = tl.load(grad + (pixel * outputs)[:, None] + (start_of + out)[None, :], mask=there, other=0.0)
        there = (out < count)[:, None] & (channel < channels)[None, :]
        w = tl.load(weight + out[:, None] * channels + channel[None, :], mask=there, other=0.0)
        total = tl.dot(d.to(TYPE), w.to(TYPE), total, input_precision=PRECISION, out_dtype=ACC)
    row, column = row * STRIDE + g, column * STRIDE
    v, at, inside = _active(x, image, row, column + g, exists, height, width, channels, channel)
    tl.store(grad_x + at, tl.where(v == 0, 0.0, total).to(grad_x.dtype.element_ty), mask=inside)
    if STRIDE == 2:
        # Its neighbour in the row is a pixel that no output has read.
        beside = column + 1 - g
        inside = (exists & (row < height) & (beside < width))[:, None] & (channel < channels)[None, :]
        at = (((image * height + row) * width + beside) * channels)[:, None] + channel[None, :]
        tl.store(grad_x + at, tl.zeros([BLOCK_P, BLOCK_C], grad_x.dtype.element_ty), mask=inside)


@launched
@triton.jit
def _pointwise_weights_kernel(
    grad: tl.tensor,
    x: tl.tensor,
    partials: tl.tensor,  # (tasks, outputs, C)
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    outputs: tl.int64,
    tiles: tl.int32,
    OUTPUTS: tl.constexpr,
    FIRST: tl.constexpr,
    EVEN: tl.constexpr,
    STRIDE: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
    GROUPS: tl.constexpr,  # of channels
) -> None:
    channels = aligned(channels, ALIGN)
    g = tl.program_id(2)
    outputs = aligned(outputs, EVEN)
    count, start_of = aligned(number_of(OUTPUTS, g), EVEN), aligned(number_of(FIRST, g), EVEN)
    out = tl.program_id(1) // GROUPS * BLOCK_C + tl.arange(0, BLOCK_C)
    channel = tl.program_id(1) % GROUPS * BLOCK_C + tl.arange(0, BLOCK_C)
    total = tl.zeros([BLOCK_C, BLOCK_C], ACC)
    for t in tl.range(0, tiles, num_stages=1):
        task = tl.program_id(0) * tiles + t
        pixel, image, row, column, exists = pixels(images, out_height, out_width, task, BLOCK_P)
        there = exists[:, None] & (out < count)[None, :]
        d = tl.load(grad + (pixel * outputs)[:, None] + (start_of + out)[None, :], mask=there, other=0.0)
        v, _, _ = _active(x, image, row * STRIDE + g, column * STRIDE + g, exists, height, width, channels, channel)
        total = tl.dot(tl.trans(d.to(TYPE)), v.to(TYPE), total, input_precision=PRECISION, out_dtype=ACC)
    at = (tl.program_id(0).to(tl.int64) * outputs + start_of + out[:, None]) * channels + channel[None, :]
    tl.store(partials + at, total, mask=(out < count)[:, None] & (channel < channels)[None, :])


@launched
@triton.jit
def _pointwise_sums_kernel(
    partials: tl.tensor,
    grads: tl.tuple,
    tasks: tl.int32,
    channels: tl.int64,
    outputs: tl.int64,
    OUTPUTS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    # The gradient of a row of a weight.
    line = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    row = partials + line.to(tl.int64) * channels + channel
    value = added_up(row, outputs * channels, tasks, present, BLOCK_T, BLOCK_C).to(partials.dtype.element_ty)
    for g in tl.static_range(len(OUTPUTS)):
        if (line >= 0) & (line < OUTPUTS[g]):
            to = grads[g] + line.to(tl.int64) * channels + channel
            tl.store(to, value.to(grads[g].dtype.element_ty), mask=present)
        line -= OUTPUTS[g]


def forward(x: Tensor, weights: list[Tensor], stride: int) -> Tensor:
    """The outputs side by side."""
    x, z = dense(x), empty_channels_last(x, out_shape(x, weights, stride))
    if z.numel():
        cut, sizes = Cut.of(z.numel() // z.shape[1], x.shape[1], _PIXELS), _outputs(weights)
        _pointwise_fwd_kernel[(cut.tasks, cut.groups(max(sizes[0])), len(weights))](
            x, _dense(weights), z, *_shapes(x, z), *sizes, stride, *types_of(x), *cut.blocks, num_warps=warps_of(x)
        )
    return z


def backward(
    grad: Tensor, x: Tensor, weights: list[Tensor], stride: int, need_x: bool, need_weights: bool
) -> tuple[Tensor, list[Tensor]]:
    """The gradients of x, empty where it is not needed, and of the weights, none where they are not."""
    x, grad, sizes = dense(x), dense(grad), _outputs(weights)
    grad_x = torch.empty_like(x) if need_x else x.new_empty(0)
    of_weights = [torch.empty_like(w, memory_format=torch.contiguous_format) for w in weights] if need_weights else []
    channels, outputs, rows = x.shape[1], grad.shape[1], grad.numel() // grad.shape[1]
    if need_x and rows:
        cut = Cut.of(rows, channels, _PIXELS)
        _pointwise_inputs_kernel[(cut.tasks, cut.groups(channels), stride)](
            grad, x, _dense(weights), grad_x, *_shapes(x, grad), *sizes, stride, *types_of(x), *cut.blocks,
            num_warps=warps_of(x),
        )  # fmt: skip
    if need_weights:
        cut = Cut.of(rows, channels, _PIXELS_OF_SUMS)
        tiles = max(triton.cdiv(cut.tasks, _TASKS), 1)
        tasks, groups = triton.cdiv(cut.tasks, tiles), cut.groups(channels)
        partials = x.new_empty(tasks, outputs, channels, dtype=accumulation_dtype(x.dtype))
        if rows:
            _pointwise_weights_kernel[(tasks, cut.groups(max(sizes[0])) * groups, len(weights))](
                grad, x, partials, *_shapes(x, grad), tiles, *sizes, stride, *types_of(x), *cut.blocks, groups
            )
        block = min(triton.next_power_of_2(channels), 128)
        _pointwise_sums_kernel[(outputs, triton.cdiv(channels, block))](
            partials, tuple(of_weights), tasks, channels, outputs, sizes[0], _SUMMANDS, block
        )
    return grad_x, of_weights


def _outputs(weights: list[Tensor]) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The outputs of every weight, the first of them among all, and the power of 2 that divides these numbers."""
    counts = tuple(len(w) for w in weights)
    return counts, tuple(sum(counts[:g]) for g in range(len(counts))), math.gcd(16, *counts)


def _shapes(x: Tensor, z: Tensor) -> tuple[int, ...]:
    return (*x.shape, *z.shape[2:], z.shape[1])


def _dense(weights: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(w.contiguous() for w in weights)
