# mypy: disable-error-code="import-untyped, untyped-decorator"
"""A depthwise convolution and the product that follows in one launch, which takes the statistics of the product along.

The outputs of the convolution go to the product as they are made: they are stored for backward, and not read again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.triton.batch_statistics import Partials
from asose_fast.ops.triton.dots import types_of
from asose_fast.ops.triton.multi_depthwise import _affine, _convolved
from asose_fast.ops.triton.tiles import aligned, launched, pixel_tile, pixels

_ELEMENTS = 1024
"""Of a tile of the convolution: a thread has four, side by side."""
_LEAST = 16
"""Rows and columns of it, which tensor cores multiply at once."""
_TASKS = 512
"""At most, each of which leaves statistics and reads the whole matrix."""
_MOST_CHANNELS, _MOST_TAPS = 128, 49
"""More outputs of a tile take too many registers. The taps meet the caches, where larger kernels need shared memory."""


@launched
@triton.jit
def _depthwise_product_kernel(
    x: tl.tensor,
    parameters: tl.tensor,  # the taps, then, where affine, scale and shift of x
    matrix: tl.tensor,  # (C, C)
    y: tl.tensor,
    z: tl.tensor,
    partials: tl.tensor,  # or None; (tasks, 1, 2, C): mean and squared deviations of the z of a task
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    tiles: tl.int32,
    KERNEL: tl.constexpr,
    DILATION: tl.constexpr,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    AFFINE: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,  # holds all channels
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    out = tl.arange(0, BLOCK_C)
    present = out < channels
    origin = tl.zeros([BLOCK_C], ACC)
    first = origin  # the sum of z - origin, and that of its squares
    second = origin
    for t in tl.range(0, tiles, num_stages=1):
        tile = tl.program_id(0) * tiles + t
        pixel, image, row, column, exists = pixels(images, out_height, out_width, tile, BLOCK_P)
        at = (pixel * channels)[:, None]
        total = tl.zeros([BLOCK_P, BLOCK_C], ACC)
        for start in tl.range(0, channels, BLOCK_K, num_stages=1):
            channel = start + tl.arange(0, BLOCK_K)
            there = channel < channels
            scale, shift = _affine(parameters, 0, 1, KERNEL * KERNEL, channels, channel, there, AFFINE)
            v = _convolved(
                x, parameters, scale, shift, image, row, column, exists, channels, height, width, channel, there,
                KERNEL, DILATION, STRIDE, RELU, AFFINE, ACC, BLOCK_P, BLOCK_K,
            ).to(y.dtype.element_ty)  # fmt: skip
            tl.store(y + at + channel[None, :], v, mask=exists[:, None] & there[None, :])
            of_matrix = out[None, :] * channels + channel[:, None]
            w = tl.load(matrix + of_matrix, mask=there[:, None] & present[None, :], other=0.0).to(TYPE)
            total = tl.dot(v.to(TYPE), w, total, input_precision=PRECISION, out_dtype=ACC)
        rounded = total.to(z.dtype.element_ty)
        inside = exists[:, None] & present[None, :]
        tl.store(z + at + out[None, :], rounded, mask=inside)
        if partials is not None:
            stored = tl.where(inside, rounded.to(ACC), 0.0)
            if t == 0:
                # About the mean of the first tile, so that a large mean costs no digits.
                origin = tl.sum(stored, axis=0) / tl.sum(exists.to(tl.int32), axis=0).to(ACC)
            off = tl.where(inside, stored - origin[None, :], 0.0)
            first += tl.sum(off, axis=0)
            second += tl.sum(off * off, axis=0)
    if partials is not None:
        task = tl.program_id(0).to(tl.int64)
        rows = images.to(tl.int64) * out_height * out_width
        count = tl.minimum(rows - task * tiles * BLOCK_P, tiles * BLOCK_P).to(tl.float64)
        error = first.to(tl.float64) / count
        to = partials + task * 2 * channels + out
        tl.store(to, origin.to(tl.float64) + error, mask=present)
        tl.store(to + channels, second.to(tl.float64) - count * error * error, mask=present)


def takes(x: Tensor, plan: DepthwisePlan) -> bool:
    """Whether `forward` is for such images and a plan of one branch."""
    return x.shape[1] <= _MOST_CHANNELS and plan.taps[0] <= _MOST_TAPS


def forward(
    x: Tensor, params: Tensor, plan: DepthwisePlan, matrix: Tensor, statistics: bool, y: Tensor, z: Tensor
) -> Partials | None:
    """Writes y, the outputs of the plan's branch, and z = y matrix^T; the statistics of the tiles of z where wanted.

    All images are dense channels_last, and not empty.
    """
    (n, c, h, w), (height, width) = x.shape, z.shape[2:]
    rows = n * height * width
    pixels_of_tile, depth, align = pixel_tile(z.shape, _ELEMENTS)
    pixels_of_tile, depth = max(pixels_of_tile, _LEAST), max(depth, _LEAST)
    tiles = triton.next_power_of_2(triton.cdiv(rows, pixels_of_tile * _TASKS))
    tasks = triton.cdiv(rows, pixels_of_tile * tiles)
    table = x.new_empty(tasks, 1, 2, c, dtype=torch.float64) if statistics else None
    _depthwise_product_kernel[(tasks,)](
        x, params, matrix.contiguous(), y, z, table, n, c, h, w, height, width, tiles, *plan.kernels, *plan.dilations,
        plan.stride, plan.relu, plan.affine, *types_of(x), pixels_of_tile, depth,
        max(triton.next_power_of_2(c), _LEAST), align, num_warps=8,
    )  # fmt: skip
    return None if table is None else Partials(table, rows, pixels_of_tile * tiles)
