# mypy: disable-error-code="import-untyped, untyped-decorator"
"""Depthwise convolutions and the products that follow in one launch, which takes the statistics of the products along.

The outputs of a convolution go to the product as they are made: they are stored for backward, and not read again.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.triton.batch_statistics import no_sums, store_statistics, with_tile
from asose_fast.ops.triton.dots import LEAST, types_of
from asose_fast.ops.triton.merging import Measured, Moments, arguments, merge_last
from asose_fast.ops.triton.multi_depthwise import _affine, _convolved, first_rows
from asose_fast.ops.triton.tiles import aligned, launched, pixel_tile, pixels

_ELEMENTS = 1024
"""Of a tile of the convolution: a thread has four, side by side."""
_TASKS = 512
"""Of a branch at most, each of which leaves statistics and reads the whole matrix."""
_REGISTERS = 128
"""With so many, two programs are resident. Tiles of 64 channels spill few bytes for it, others many."""
_MOST_CHANNELS, _MOST_TAPS = 128, 49
"""More outputs of a tile take too many registers. The taps meet the caches, where larger kernels need shared memory."""


@triton.jit
def _task(
    x: tl.tensor,
    parameters: tl.tensor,
    weights: tl.tensor,
    matrix: tl.tensor,  # (C, C)
    y: tl.tensor,  # or None
    z: tl.tensor,
    partials: tl.tensor,  # or None; (2, C)
    task: tl.tensor,
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    tiles: tl.int32,
    INPUT: tl.constexpr,
    INPUTS: tl.constexpr,
    WEIGHTS: tl.constexpr,
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
    BLOCK_C: tl.constexpr,
) -> None:
    # Some tiles of one branch.
    out = tl.arange(0, BLOCK_C)
    present = out < channels
    sums = no_sums(BLOCK_C, ACC)
    for t in tl.range(0, tiles, num_stages=1):
        pixel, image, row, column, exists = pixels(images, out_height, out_width, task * tiles + t, BLOCK_P)
        at = (pixel * channels)[:, None]
        total = tl.zeros([BLOCK_P, BLOCK_C], ACC)
        for start in tl.range(0, channels, BLOCK_K, num_stages=1):
            channel = start + tl.arange(0, BLOCK_K)
            there = channel < channels
            scale, shift = _affine(parameters, INPUT, INPUTS, WEIGHTS, channels, channel, there, AFFINE)
            v = _convolved(
                x, weights, scale, shift, image, row, column, exists, channels, height, width, channel, there,
                KERNEL, DILATION, STRIDE, RELU, AFFINE, ACC, BLOCK_P, BLOCK_K,
            ).to(z.dtype.element_ty)  # fmt: skip
            if y is not None:
                tl.store(y + at + channel[None, :], v, mask=exists[:, None] & there[None, :])
            of_matrix = out[None, :] * channels + channel[:, None]
            w = tl.load(matrix + of_matrix, mask=there[:, None] & present[None, :], other=0.0).to(TYPE)
            total = tl.dot(v.to(TYPE), w, total, input_precision=PRECISION, out_dtype=ACC)
        rounded = total.to(z.dtype.element_ty)
        inside = exists[:, None] & present[None, :]
        tl.store(z + at + out[None, :], rounded, mask=inside)
        if partials is not None:
            sums = with_tile(sums, rounded.to(ACC), inside, exists, t == 0)
    if partials is not None:
        rows = images.to(tl.int64) * out_height * out_width
        count = tl.minimum(rows - task.to(tl.int64) * tiles * BLOCK_P, tiles * BLOCK_P)
        store_statistics(partials, sums, count, channels, out, present)


@launched
@triton.jit
def _depthwise_product_kernel(
    xs: tl.tuple,
    parameters: tl.tensor,  # the taps of all branches, then, where affine, scale and shift of each x
    matrices: tl.tensor,  # (B, C, C)
    ys: tl.tuple,  # or None
    zs: tl.tuple,
    partials: tl.tensor,  # (tasks, B, 2, C), like what follows up to EVEN as `merging.arguments` gives it
    counters: tl.tensor,
    to: tl.tuple,
    tasks: tl.int32,
    size: tl.int32,
    eps: tl.float64,
    momentum: tl.float64,
    EVEN: tl.constexpr,
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    tiles: tl.int32,
    KERNELS: tl.constexpr,
    DILATIONS: tl.constexpr,
    FIRST: tl.constexpr,  # row of parameters of every branch
    WEIGHTS: tl.constexpr,
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
    # Programs of the same tiles are neighbours: branches that share x read the same.
    channels = aligned(channels, ALIGN)
    task = tl.program_id(0) // len(KERNELS)
    for b in tl.static_range(len(KERNELS)):
        if tl.program_id(0) % len(KERNELS) == b:
            y = None
            if ys is not None:
                y = ys[b]
            of_task = None
            if partials is not None:
                of_task = partials + (task.to(tl.int64) * len(KERNELS) + b) * 2 * channels
            _task(
                xs[b % len(xs)], parameters, parameters + FIRST[b] * channels, matrices + b * channels * channels,
                y, zs[b], of_task, task, images, channels, height, width, out_height, out_width, tiles,
                b % len(xs), len(xs), WEIGHTS, KERNELS[b], DILATIONS[b], STRIDE, RELU, AFFINE, PRECISION, ACC, TYPE,
                BLOCK_P, BLOCK_K, BLOCK_C,
            )  # fmt: skip
    if partials is not None:
        b = tl.program_id(0) % len(KERNELS)
        rows = images.to(tl.int64) * out_height * out_width
        merge_last(
            partials, counters, to, tasks, size, eps, momentum, EVEN, task, b, b, len(KERNELS), rows,
            tiles * BLOCK_P, channels, tl.arange(0, BLOCK_C), ACC, BLOCK_C,
        )  # fmt: skip


def takes(x: Tensor, plan: DepthwisePlan) -> bool:
    """Whether `forward` is for such images and such a plan."""
    return x.numel() > 0 and x.shape[1] <= _MOST_CHANNELS and max(plan.taps) <= _MOST_TAPS


def forward(
    xs: Sequence[Tensor],
    params: Tensor,
    plan: DepthwisePlan,
    matrices: Tensor,
    statistics: Moments | Measured | None,
    ys: Sequence[Tensor] | None,
    zs: Sequence[Tensor],
) -> None:
    """Writes zs, y matrix^T of every branch, and its convolution's outputs y where there are `ys` to write them to.

    All images are dense channels_last. The statistics of the zs are written where they are wanted.
    """
    (n, c, h, w), (height, width), branches = xs[0].shape, zs[0].shape[2:], len(plan.kernels)
    rows = n * height * width
    pixels_of_tile, depth, align = pixel_tile(zs[0].shape, _ELEMENTS)
    pixels_of_tile, depth = max(pixels_of_tile, LEAST), max(depth, LEAST)
    block = max(triton.next_power_of_2(c), LEAST)
    tiles = triton.next_power_of_2(triton.cdiv(rows, pixels_of_tile * _TASKS))
    tasks = triton.cdiv(rows, pixels_of_tile * tiles)
    _depthwise_product_kernel[(tasks * branches,)](
        tuple(xs), params.contiguous(), matrices.contiguous(), None if ys is None else tuple(ys), tuple(zs),
        *arguments(statistics, xs[0], tasks, branches), n, c, h, w, height, width, tiles,
        plan.kernels, plan.dilations, first_rows(plan), sum(plan.taps), plan.stride, plan.relu, plan.affine,
        *types_of(xs[0]), pixels_of_tile, depth, block, align, num_warps=8, maxnreg=_REGISTERS if block == 64 else None,
    )  # fmt: skip
