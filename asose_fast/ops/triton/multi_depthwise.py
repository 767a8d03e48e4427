# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`multi_depthwise` in Triton: one branch after the other, over a tile of the input that the caches hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.layout import all_dense, dense, empty_channels_last
from asose_fast.ops.triton.tiles import accumulator, aligned, grid, launched, pixel_tile, pixels

DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

_ELEMENTS = 1024
"""Of a tile. With more, the loads that the compiler has in flight take too many registers."""
_ELEMENTS_OF_ROWS = 512
"""Of a tile of weight gradients, which keeps a value a tap of a kernel's row."""
_TILES = 32
"""Tiles, at least, that a program of weight gradients passes by: each leaves partial sums as large as the weights."""
_TASKS = 256
"""Tasks of weight gradients, at most: with the rows of kernels and the groups of channels enough programs for any GPU.
"""

_MOST_TAPS = 400
"""Taps of all branches, at most; the five branches of the supernet have 117."""


@triton.jit
def _add(totals: tl.tuple, i: tl.constexpr, value: tl.tensor) -> tl.tuple:
    return totals[:i] + (totals[i] + value,) + totals[i + 1 :]  # noqa: RUF005 (the compiler knows no star)


@triton.jit
def _active(
    x: tl.tensor,
    at: tl.tensor,
    valid: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    RELU: tl.constexpr,
    AFFINE: tl.constexpr,
    ACC: tl.constexpr,
) -> tl.tensor:
    v = tl.load(x + at, mask=valid, other=0.0).to(ACC)
    if AFFINE:
        v = v * scale[None, :] + shift[None, :]
    if RELU:
        v = tl.where(v <= 0, 0.0, v)  # NaN stays
    if AFFINE:
        v = tl.where(valid, v, 0.0)
    return v


@triton.jit
def _affine(
    parameters: tl.tensor,
    i: tl.constexpr,
    INPUTS: tl.constexpr,
    WEIGHTS: tl.constexpr,
    channels: tl.int64,
    channel: tl.tensor,
    present: tl.tensor,
    AFFINE: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    # scale and shift of input i, the rows of parameters behind those of weights.
    if AFFINE:
        scale = tl.load(parameters + (WEIGHTS + i) * channels + channel, mask=present, other=0.0)
        shift = tl.load(parameters + (WEIGHTS + INPUTS + i) * channels + channel, mask=present, other=0.0)
    else:
        scale = channel
        shift = channel
    return scale, shift


@triton.jit
def _convolved(
    x: tl.tensor,
    weights: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    image: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    exists: tl.tensor,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    channel: tl.tensor,
    present: tl.tensor,
    KERNEL: tl.constexpr,
    DILATION: tl.constexpr,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    AFFINE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tl.tensor:
    # The outputs of a branch. Unrolled over a kernel's columns alone: over all taps, the compiler spills and is slow.
    total = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    for i in range(KERNEL):
        r = row * STRIDE + (i - KERNEL // 2) * DILATION
        line = exists & (r >= 0) & (r < height)
        for j in tl.static_range(KERNEL):
            c = column * STRIDE + (j - KERNEL // 2) * DILATION
            valid = (line & (c >= 0) & (c < width))[:, None] & present[None, :]
            at = (((image * height + r) * width + c) * channels)[:, None] + channel[None, :]
            w = tl.load(weights + (i * KERNEL + j) * channels + channel, mask=present, other=0.0)
            total += w[None, :] * _active(x, at, valid, scale, shift, RELU, AFFINE, ACC)
    return total


@triton.jit
def _handed_back(
    grad: tl.tensor,
    weights: tl.tensor,
    image: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    exists: tl.tensor,
    channels: tl.int64,
    out_height: tl.int32,
    out_width: tl.int32,
    channel: tl.tensor,
    present: tl.tensor,
    KERNEL: tl.constexpr,
    DILATION: tl.constexpr,
    STRIDE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tl.tensor:
    # The gradients of a branch's inputs, of the outputs to which they are inputs by one tap or another.
    total = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    for i in range(KERNEL):
        top = row - (i - KERNEL // 2) * DILATION
        r = top // STRIDE
        line = exists & (top >= 0) & (r < out_height) & (top % STRIDE == 0)
        for j in tl.static_range(KERNEL):
            left = column - (j - KERNEL // 2) * DILATION
            c = left // STRIDE
            valid = (line & (left >= 0) & (c < out_width) & (left % STRIDE == 0))[:, None] & present[None, :]
            at = (((image * out_height + r) * out_width + c) * channels)[:, None] + channel[None, :]
            w = tl.load(weights + (i * KERNEL + j) * channels + channel, mask=present, other=0.0)
            total += w[None, :] * tl.load(grad + at, mask=valid, other=0.0).to(ACC)
    return total


@launched
@triton.jit
def _multi_depthwise_fwd_kernel(
    xs: tl.tuple,
    parameters: tl.tensor,
    ys: tl.tuple,
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    KERNELS: tl.constexpr,
    DILATIONS: tl.constexpr,
    FIRST: tl.constexpr,  # row of parameters of every branch
    WEIGHTS: tl.constexpr,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    AFFINE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    pixel, image, row, column, exists = pixels(images, out_height, out_width, tl.program_id(0), BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    to = (pixel * channels)[:, None] + channel[None, :]
    for b in tl.static_range(len(KERNELS)):
        scale, shift = _affine(parameters, b % len(xs), len(xs), WEIGHTS, channels, channel, present, AFFINE)
        y = _convolved(
            xs[b % len(xs)], parameters + FIRST[b] * channels, scale, shift, image, row, column, exists,
            channels, height, width, channel, present,
            KERNELS[b], DILATIONS[b], STRIDE, RELU, AFFINE, ACC, BLOCK_P, BLOCK_C,
        )  # fmt: skip
        tl.store(ys[b] + to, y.to(ys[b].dtype.element_ty), mask=exists[:, None] & present[None, :])


@launched
@triton.jit
def _inputs_bwd_kernel(
    grads: tl.tuple,
    xs: tl.tuple,
    parameters: tl.tensor,
    grad_xs: tl.tuple,
    partials: tl.tensor,  # (tasks, 2, inputs, C), or None
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    KERNELS: tl.constexpr,
    DILATIONS: tl.constexpr,
    USED: tl.constexpr,
    NEED: tl.constexpr,
    FIRST: tl.constexpr,
    WEIGHTS: tl.constexpr,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    AFFINE: tl.constexpr,
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
    inside = exists[:, None] & present[None, :]
    for i in tl.static_range(len(xs)):
        if NEED[i] or partials is not None:
            total = tl.zeros([BLOCK_P, BLOCK_C], ACC)
            for b in tl.static_range(i, len(KERNELS), len(xs)):
                if USED[b]:
                    total += _handed_back(
                        grads[b], parameters + FIRST[b] * channels, image, row, column, exists,
                        channels, out_height, out_width, channel, present,
                        KERNELS[b], DILATIONS[b], STRIDE, ACC, BLOCK_P, BLOCK_C,
                    )  # fmt: skip
            scale, shift = _affine(parameters, i, len(xs), WEIGHTS, channels, channel, present, AFFINE)
            x = tl.load(xs[i] + to, mask=inside, other=0.0).to(ACC)
            u = x
            if AFFINE:
                u = x * scale[None, :] + shift[None, :]
            if RELU:
                total = tl.where(u <= 0, 0.0, total)
            if partials is not None:
                of_task = partials + tl.program_id(0).to(tl.int64) * 2 * len(xs) * channels + channel
                of_scale = tl.sum(tl.where(inside, total * x, 0.0), axis=0)
                tl.store(of_task + i * channels, of_scale, mask=present)
                of_shift = tl.sum(tl.where(inside, total, 0.0), axis=0)
                tl.store(of_task + (len(xs) + i) * channels, of_shift, mask=present)
            if NEED[i]:
                if AFFINE:
                    total *= scale[None, :]
                tl.store(grad_xs[i] + to, total.to(grad_xs[i].dtype.element_ty), mask=inside)


@triton.jit
def _kernel_row(
    grad: tl.tensor,
    x: tl.tensor,
    scale: tl.tensor,
    shift: tl.tensor,
    partials: tl.tensor,
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    channel: tl.tensor,
    present: tl.tensor,
    tiles: tl.int32,
    down: tl.tensor,
    KERNEL: tl.constexpr,
    DILATION: tl.constexpr,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    AFFINE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    # The gradients of one row of a kernel, over the tiles of a task; `down` is where the row lies.
    totals: tl.tuple = ()
    for _ in tl.static_range(KERNEL):
        totals = totals + (tl.zeros([BLOCK_P, BLOCK_C], ACC),)  # noqa: RUF005
    for t in range(tiles):
        tile = tl.program_id(0) * tiles + t
        pixel, image, row, column, exists = pixels(images, out_height, out_width, tile, BLOCK_P)
        to = (pixel * channels)[:, None] + channel[None, :]
        g = tl.load(grad + to, mask=exists[:, None] & present[None, :], other=0.0).to(ACC)
        r = row * STRIDE + down
        line = exists & (r >= 0) & (r < height)
        for j in tl.static_range(KERNEL):
            c = column * STRIDE + (j - KERNEL // 2) * DILATION
            valid = (line & (c >= 0) & (c < width))[:, None] & present[None, :]
            at = (((image * height + r) * width + c) * channels)[:, None] + channel[None, :]
            v = _active(x, at, valid, scale, shift, RELU, AFFINE, ACC)
            totals = _add(totals, j, g * v)
    for j in tl.static_range(KERNEL):
        tl.store(partials + j * channels + channel, tl.sum(totals[j], axis=0), mask=present)


@launched
@triton.jit
def _weights_bwd_kernel(
    grads: tl.tuple,
    xs: tl.tuple,
    parameters: tl.tensor,
    partials: tl.tensor,  # (tasks, taps of all branches, C)
    images: tl.int32,
    channels: tl.int64,
    height: tl.int32,
    width: tl.int32,
    out_height: tl.int32,
    out_width: tl.int32,
    tiles: tl.int32,
    KERNELS: tl.constexpr,
    DILATIONS: tl.constexpr,
    USED: tl.constexpr,
    FIRST: tl.constexpr,  # row of parameters of every branch
    WEIGHTS: tl.constexpr,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    AFFINE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    of_task = partials + tl.program_id(0).to(tl.int64) * WEIGHTS * channels
    line = tl.program_id(2)
    for b in tl.static_range(len(KERNELS)):
        if USED[b]:
            scale, shift = _affine(parameters, b % len(xs), len(xs), WEIGHTS, channels, channel, present, AFFINE)
            if (line >= 0) & (line < KERNELS[b]):
                _kernel_row(
                    grads[b], xs[b % len(xs)], scale, shift, of_task + (FIRST[b] + line * KERNELS[b]) * channels,
                    images, channels, height, width, out_height, out_width, channel, present, tiles,
                    (line - KERNELS[b] // 2) * DILATIONS[b],
                    KERNELS[b], DILATIONS[b], STRIDE, RELU, AFFINE, ACC, BLOCK_P, BLOCK_C,
                )  # fmt: skip
            line -= KERNELS[b]


def unfit(shape: Sequence[int], dtype: torch.dtype, plan: DepthwisePlan) -> str | None:
    """Plans of more than 400 taps are left to another backend: kernels are unrolled over columns, and must compile."""
    taps = sum(plan.taps)
    return f"{taps} taps, more than {_MOST_TAPS}, are too many to unroll a kernel over" if taps > _MOST_TAPS else None


def forward(xs: list[Tensor], params: Tensor, plan: DepthwisePlan, into: list[Tensor] | None = None) -> list[Tensor]:
    """The outputs of all branches, in the channels_last tensors `into` or in new ones."""
    x, shape = xs[0], plan.out_shape(xs[0])
    n, c, *out = shape
    ys = tuple(empty_channels_last(x, shape) for _ in plan.kernels) if into is None else tuple(into)
    if x.numel() == 0:
        return list(ys)
    blocks = pixel_tile(shape, _ELEMENTS)
    _multi_depthwise_fwd_kernel[grid(n * out[0] * out[1], c, blocks)](
        tuple(all_dense(xs)), params.contiguous(), ys, *_sizes(x, out), plan.kernels, plan.dilations, first_rows(plan),
        sum(plan.taps), plan.stride, plan.relu, plan.affine, accumulator(x.dtype), *blocks,
    )  # fmt: skip
    return list(ys)


def backward(
    grads: list[Tensor | None],
    xs: list[Tensor],
    params: Tensor,
    plan: DepthwisePlan,
    need_x: list[bool],
    need_weights: bool,
    need_affine: bool,
) -> tuple[list[Tensor], Tensor]:
    """The gradients of the inputs that need it, and of params (else an empty tensor)."""
    x, (n, c, *out) = xs[0], plan.out_shape(xs[0])
    used = [g is not None for g in grads]
    inputs, params = tuple(all_dense(xs)), params.contiguous()
    # Absent tensors are never touched: x stands in for them.
    given = tuple(x if g is None else dense(g) for g in grads)
    grad_xs = tuple(torch.empty_like(t) if need else t for t, need in zip(inputs, need_x, strict=True))
    weights, acc = sum(plan.taps), accumulator(x.dtype)
    grad_params = torch.zeros_like(params) if need_weights or need_affine else params.new_empty(0)
    if x.numel() == 0:
        return [t for t, need in zip(grad_xs, need_x, strict=True) if need], grad_params
    if any(need_x) or need_affine:
        _, _, h, w = x.shape
        blocks = pixel_tile(x.shape, _ELEMENTS)
        programs = grid(n * h * w, c, blocks)
        partials = params.new_empty(programs[0], 2 * plan.inputs, c) if need_affine else None
        _inputs_bwd_kernel[programs](
            given, inputs, params, grad_xs, partials, *_sizes(x, out), plan.kernels, plan.dilations, tuple(used),
            tuple(need_x), first_rows(plan), weights, plan.stride, plan.relu, plan.affine, acc, *blocks,
        )  # fmt: skip
        if partials is not None:
            torch.sum(partials, 0, out=grad_params[weights:])
    if need_weights and any(used):
        blocks = pixel_tile((n, c, *out), _ELEMENTS_OF_ROWS)
        count, channel_groups = grid(n * out[0] * out[1], c, blocks)
        tiles = max(triton.cdiv(count, _TASKS), min(_TILES, count))
        tasks = triton.cdiv(count, tiles)
        partials = params.new_empty(tasks, weights, c) if all(used) else params.new_zeros(tasks, weights, c)
        lines = sum(kernel for kernel, is_used in zip(plan.kernels, used, strict=True) if is_used)
        _weights_bwd_kernel[(tasks, channel_groups, lines)](
            given, inputs, params, partials, *_sizes(x, out), tiles, plan.kernels, plan.dilations, tuple(used),
            first_rows(plan), weights, plan.stride, plan.relu, plan.affine, acc, *blocks,
        )  # fmt: skip
        torch.sum(partials, 0, out=grad_params[:weights])
    return [t for t, need in zip(grad_xs, need_x, strict=True) if need], grad_params


def first_rows(plan: DepthwisePlan) -> tuple[int, ...]:
    """The row of params at which the weights of every branch begin."""
    return tuple(sum(plan.taps[:b]) for b in range(len(plan.kernels)))


def _sizes(x: Tensor, out: list[int]) -> tuple[int, ...]:
    n, c, h, w = x.shape
    return n, c, h, w, *out
