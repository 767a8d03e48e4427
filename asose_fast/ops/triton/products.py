# mypy: disable-error-code="import-untyped, untyped-decorator"
"""The matrix products of `separable` in Triton: those of all branches in one launch, on the (pixels, channels) view.

A product forward takes the statistics of its outputs along; backward it makes dL/dz from what the norm was handed back,
so that dL/dz is stored nowhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.layout import all_dense, empty_channels_last
from asose_fast.ops.triton.dots import Cut, depth_of, number_of, one_of, types_of, warps_of
from asose_fast.ops.triton.merging import Measured, Moments, arguments, merge_last
from asose_fast.ops.triton.tiles import aligned, launched

_PIXELS = 64
"""Of a tile."""
_PIXELS_OF_SUMS = 32
"""Of a tile of weight gradients, whose sum over pixels is a matrix of channels."""
_TASKS, _PROGRAMS = 128, 384
"""Tasks of weight gradients at most, each of which leaves a matrix, and their programs at most, those of all branches:
as many as are resident at once."""


class Handed(NamedTuple):
    """What comes back to some outputs z: dL/dz = tables[0] * grad + tables[2] * (z - tables[1]) + tables[3].

    It is 0 in the channels in which tables[0] is.
    """

    grads: list[Tensor]
    zs: list[Tensor | None]
    """None for an output that the last two terms leave out."""
    tables: Tensor
    """(B, 4, C) float32, or float64 for float64: a row for every branch of the stage."""
    branches: list[int]
    """The branches of grads and zs."""


@triton.jit
def _input(
    x: tl.tensor,
    z: tl.tensor,
    made: tl.tensor,  # or None; the tile of z, which is then not read
    table: tl.tensor,  # or None, where x is the input as it is
    has_z: tl.tensor,
    row: tl.tensor,
    exists: tl.tensor,
    channels: tl.int64,
    channel: tl.tensor,
    ACC: tl.constexpr,
    TYPE: tl.constexpr,
) -> tl.tensor:
    # A tile of pixels and channels; of a gradient, what the norm makes of it.
    present = channel < channels
    inside = exists[:, None] & present[None, :]
    at = (row * channels)[:, None] + channel[None, :]
    value = tl.load(x + at, mask=inside, other=0.0)
    if table is not None:
        scale = tl.load(table + channel, mask=present, other=0.0)
        center = tl.load(table + channels + channel, mask=present, other=0.0)
        slope = tl.load(table + 2 * channels + channel, mask=present & has_z, other=0.0)
        shift = tl.load(table + 3 * channels + channel, mask=present & has_z, other=0.0)
        if made is None:
            made = tl.load(z + at, mask=inside & has_z, other=0.0).to(ACC)
        from_z = made - center[None, :]
        wide = scale[None, :] * value.to(ACC) + slope[None, :] * tl.where(has_z, from_z, 0.0) + shift[None, :]
        value = tl.where((scale != 0)[None, :] & inside, wide, 0.0)
    return value.to(TYPE)


@triton.jit
def _matrix(
    matrices: tl.tensor,
    alive: tl.tensor,  # or None
    branch: tl.tensor,
    channels: tl.int64,
    at: tl.tensor,
    there: tl.tensor,
    TYPE: tl.constexpr,
) -> tl.tensor:
    # A tile of the branch's matrix, 0 where the branch is dead.
    if alive is not None:
        # A vector, because the interpreter cannot widen a scalar condition.
        there = there & (tl.load(alive + branch + tl.zeros([at.shape[0]], tl.int32)) != 0)[:, None]
    return tl.load(matrices + branch * channels * channels + at, mask=there, other=0.0).to(TYPE)


@triton.jit
def _only_alive(
    table: tl.tensor,
    alive: tl.tensor,
    alive_table: tl.tensor,
    row: tl.tensor,
    channels: tl.int64,
    channel: tl.tensor,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    # Some rows of params. Behind the taps of all branches are their scales, then their shifts.
    branch = row * 0
    left = row
    for b in tl.static_range(len(TAPS)):
        branch += tl.where(left >= TAPS[b], 1, 0)
        left -= TAPS[b]
    branch = tl.where(left >= 0, left % len(TAPS), branch)
    inside = (row < ROWS)[:, None] & (channel < channels)[None, :]
    kept = tl.load(alive + branch, mask=row < ROWS, other=0) != 0
    at = row.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(alive_table + at, tl.load(table + at, mask=inside & kept[:, None], other=0.0), mask=inside)


@triton.jit
def _product(
    x: tl.tensor,
    z: tl.tensor,
    table: tl.tensor,
    has_z: tl.tensor,
    y: tl.tensor,
    matrices: tl.tensor,
    alive: tl.tensor,
    branch: tl.tensor,
    row: tl.tensor,
    out: tl.tensor,
    rows: tl.int64,
    channels: tl.int64,
    TRANSPOSED: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    # Stores a tile of y = x matrix^T, or x matrix where TRANSPOSED, and gives it, with which elements there are.
    total = tl.zeros([BLOCK_P, BLOCK_C], ACC)
    exists, present = row < rows, out < channels
    BLOCK_K: tl.constexpr = depth_of(PRECISION, BLOCK_C, table is not None)
    for start in tl.range(0, channels, BLOCK_K, num_stages=1):
        channel = start + tl.arange(0, BLOCK_K)
        value = _input(x, z, None, table, has_z, row, exists, channels, channel, ACC, TYPE)
        there = (channel < channels)[:, None] & present[None, :]
        if TRANSPOSED:  # noqa: SIM108 (decided when compiling)
            at = channel[:, None] * channels + out[None, :]
        else:
            at = out[None, :] * channels + channel[:, None]
        w = _matrix(matrices, alive, branch, channels, at, there, TYPE)
        total = tl.dot(value, w, total, input_precision=PRECISION, out_dtype=ACC)
    rounded = total.to(y.dtype.element_ty)
    inside = exists[:, None] & present[None, :]
    tl.store(y + (row * channels)[:, None] + out[None, :], rounded, mask=inside)
    return rounded, inside


@launched
@triton.jit
def _products_kernel(
    xs: tl.tuple,
    zs: tl.tuple,
    tables: tl.tensor,  # or None
    matrices: tl.tensor,  # (B, C, C)
    ys: tl.tuple,
    partials: tl.tensor,  # (tasks, branches, 2, C), like what follows up to EVEN as `merging.arguments` gives it
    counters: tl.tensor,
    to: tl.tuple,
    tasks: tl.int32,
    size: tl.int32,
    eps: tl.float64,
    momentum: tl.float64,
    EVEN: tl.constexpr,
    alive: tl.tensor,  # or None; (B,)
    table: tl.tensor,  # params of `separable`, of which the rows of dead branches are to be 0; or None
    alive_table: tl.tensor,
    rows: tl.int64,
    channels: tl.int64,
    BRANCHES: tl.constexpr,
    HAS_Z: tl.constexpr,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,  # of the table
    TRANSPOSED: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
    GROUPS: tl.constexpr,
) -> None:
    # Programs of one tile of pixels are neighbours: they read the same.
    channels = aligned(channels, ALIGN)
    i = tl.program_id(0) % len(xs)
    group = tl.program_id(0) // len(xs) % GROUPS
    task = (tl.program_id(0) // len(xs) // GROUPS).to(tl.int64)
    branch = number_of(BRANCHES, i).to(tl.int64)
    x, y, has_z = one_of(xs, i), one_of(ys, i), number_of(HAS_Z, i) != 0
    z = x
    maps = None
    if tables is not None:
        z = one_of(zs, i)
        maps = tables + branch * 4 * channels

    row = task * BLOCK_P + tl.arange(0, BLOCK_P)
    out = group * BLOCK_C + tl.arange(0, BLOCK_C)
    present = out < channels
    rounded, inside = _product(
        x, z, maps, has_z, y, matrices, alive, branch, row, out, rows, channels,
        TRANSPOSED, PRECISION, ACC, TYPE, BLOCK_P, BLOCK_C,
    )  # fmt: skip
    if partials is not None:
        count = tl.minimum(rows - task * BLOCK_P, BLOCK_P).to(tl.float64)
        stored = tl.where(inside, rounded.to(ACC), 0.0)
        mean = tl.sum(stored, axis=0) / count.to(ACC)
        # About the rounded mean, whose error is taken off again: a large mean costs no digits.
        off = tl.where(inside, stored - mean[None, :], 0.0)
        error = tl.sum(off, axis=0).to(tl.float64) / count
        of_task = partials + (task * len(xs) + i) * 2 * channels + out
        tl.store(of_task, mean.to(tl.float64) + error, mask=present)
        tl.store(of_task + channels, tl.sum(off * off, axis=0).to(tl.float64) - count * error * error, mask=present)
    if table is not None:  # noqa: SIM102 (known when compiling, unlike the next condition)
        if i == 0:
            for first in range(task.to(tl.int32) * BLOCK_P, ROWS, tasks * BLOCK_P):
                _only_alive(table, alive, alive_table, first + tl.arange(0, BLOCK_P), channels, out, TAPS, ROWS)
    if partials is not None:
        merge_last(
            partials, counters, to, tasks, size, eps, momentum, EVEN, task.to(tl.int32), i * GROUPS + group, i,
            len(xs), rows, BLOCK_P, channels, out, ACC, BLOCK_C,
        )  # fmt: skip


@launched
@triton.jit
def _products_bwd_kernel(
    grads: tl.tuple,
    zs: tl.tuple,  # or None, where they are made of ys again
    tables: tl.tensor,
    ys: tl.tuple,
    matrices: tl.tensor,
    grad_ys: tl.tuple,
    alive: tl.tensor,  # or None, like the next ones: known when compiling
    table: tl.tensor,
    alive_table: tl.tensor,
    partials: tl.tensor,  # (tasks, B, C, C), of which the branches' are written
    rows: tl.int64,
    channels: tl.int64,
    tiles: tl.int32,
    inputs: tl.int32,  # programs of dL/dy alone
    BRANCHES: tl.constexpr,
    HAS_Z: tl.constexpr,
    TAPS: tl.constexpr,  # of all branches
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
    ACC: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,  # the pixels of a tile of dL/dy alone
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
    GROUPS: tl.constexpr,
) -> None:
    # The gradient of a matrix, (dL/dz)^T y over the tiles of a task, and dL/dy: where a tile has not all channels, by
    # the first programs, else along with the gradient.
    channels = aligned(channels, ALIGN)
    program = tl.program_id(0) - inputs
    if GROUPS > 1:  # noqa: SIM102 (known when compiling, unlike the next condition)
        if tl.program_id(0) < inputs:
            i = tl.program_id(0) % len(ys)
            group = tl.program_id(0) // len(ys) % GROUPS
            tile = (tl.program_id(0) // len(ys) // GROUPS).to(tl.int64)
            branch = number_of(BRANCHES, i).to(tl.int64)
            row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
            some = group * BLOCK_C + tl.arange(0, BLOCK_C)
            _product(
                one_of(grads, i), one_of(zs, i), tables + branch * 4 * channels, number_of(HAS_Z, i) != 0,
                one_of(grad_ys, i), matrices, alive, branch, row, some, rows, channels,
                True, PRECISION, ACC, TYPE, BLOCK_ROWS, BLOCK_C,
            )  # fmt: skip
            return
    i = program % len(ys)
    place = program // len(ys) % (GROUPS * GROUPS)
    task = (program // len(ys) // (GROUPS * GROUPS)).to(tl.int64)
    branch = number_of(BRANCHES, i).to(tl.int64)
    grad, y, has_z = one_of(grads, i), one_of(ys, i), number_of(HAS_Z, i) != 0
    z = grad
    if zs is not None:
        z = one_of(zs, i)
    out = place // GROUPS * BLOCK_C + tl.arange(0, BLOCK_C)
    channel = place % GROUPS * BLOCK_C + tl.arange(0, BLOCK_C)
    there = (out < channels)[:, None] & (channel < channels)[None, :]
    if GROUPS == 1:
        grad_y = one_of(grad_ys, i)
        w = _matrix(matrices, alive, branch, channels, out[:, None] * channels + channel[None, :], there, TYPE)
    total = tl.zeros([BLOCK_C, BLOCK_C], ACC)
    for t in tl.range(0, tiles, num_stages=1):
        row = (task * tiles + t) * BLOCK_P + tl.arange(0, BLOCK_P)
        exists = row < rows
        v = _input(y, y, None, None, has_z, row, exists, channels, channel, ACC, TYPE)
        made = None
        if zs is None:
            made = tl.dot(v, tl.trans(w), input_precision=PRECISION, out_dtype=ACC).to(y.dtype.element_ty).to(ACC)
        g = _input(grad, z, made, tables + branch * 4 * channels, has_z, row, exists, channels, out, ACC, TYPE)
        total = tl.dot(tl.trans(g), v, total, input_precision=PRECISION, out_dtype=ACC)
        if GROUPS == 1:
            value = tl.dot(g, w, input_precision=PRECISION, out_dtype=ACC).to(grad_y.dtype.element_ty)
            inside = exists[:, None] & (channel < channels)[None, :]
            tl.store(grad_y + (row * channels)[:, None] + channel[None, :], value, mask=inside)
    to = partials + ((task * len(TAPS) + branch) * channels + out[:, None]) * channels + channel[None, :]
    tl.store(to, total, mask=there)
    if table is not None:  # noqa: SIM102 (known when compiling, unlike the next condition)
        if (i == 0) & (place // GROUPS == 0):
            tasks = (tl.num_programs(0) - inputs) // (len(ys) * GROUPS * GROUPS)
            for first in range(task.to(tl.int32) * BLOCK_C, ROWS, tasks * BLOCK_C):
                rows_of_table = first + tl.arange(0, BLOCK_C)
                _only_alive(table, alive, alive_table, rows_of_table, channels, channel, TAPS, ROWS)


def forward(
    xs: list[Tensor], matrices: Tensor, statistics: Moments | Measured | None, into: list[Tensor] | None = None
) -> list[Tensor]:
    """z = x matrix^T of every branch; the statistics of the zs are written where they are wanted.

    The z are written to the channels_last tensors `into`, or to new ones.
    """
    x, zs = xs[0], _empty(xs) if into is None else tuple(into)
    channels, cut = x.shape[1], _cut(x, _PIXELS)
    groups = cut.groups(channels)
    if cut.rows:
        _products_kernel[(cut.tasks * groups * len(xs),)](
            tuple(all_dense(xs)), (), None, matrices.contiguous(), zs,
            *arguments(statistics, x, cut.tasks, groups * len(xs)), None, None, None, cut.rows, channels,
            tuple(range(len(xs))), (0,) * len(xs), (), 0, False, *types_of(x), *cut.blocks, groups,
            num_warps=warps_of(x),
        )  # fmt: skip
    return list(zs)


def backward(
    handed: Handed,
    ys: list[Tensor] | None,
    matrices: Tensor,
    params: Tensor,
    plan: DepthwisePlan,
    alive: Tensor | None,
    of_ys: bool,
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """dL/dy of the branches, dL/dz matrix; the params of `separable`; dL/dmatrix = (dL/dz)^T y as partial sums.

    Of branches whose `alive` is 0, matrices count as 0 and the rows of params are 0, so that NaNs do not spread. The
    sums are (tasks, B, C, C), to be added up: those of other branches are not written, and there are none without `ys`.
    `of_ys` says that the zs are y matrix^T. Where that takes one product, they are then made again instead of read.
    """
    grads, zs, has_z = _dense(handed)
    x, grad_ys, params = grads[0], _empty(grads), params.contiguous()
    channels, branches, taps = x.shape[1], tuple(handed.branches), tuple(plan.taps)
    masks = (None, None, None) if alive is None else (alive.contiguous(), params, torch.empty_like(params))
    cut, cut_of_sums = _cut(x, _PIXELS), _cut(x, _PIXELS_OF_SUMS)
    groups, matrices = cut.groups(channels), matrices.contiguous()
    types = types_of(x)
    one_product = x.element_size() == 2 or types[0] == "tf32"
    if cut.rows and ys is None:
        _products_kernel[(cut.tasks * groups * len(grads),)](
            grads, zs, handed.tables, matrices, grad_ys, *arguments(None, x, cut.tasks), *masks, cut.rows, channels,
            branches, has_z, taps, len(params), True, *types, *cut.blocks, groups, num_warps=warps_of(x),
        )  # fmt: skip
    partials = None
    if ys is not None:
        tiles = max(triton.cdiv(cut_of_sums.tasks, min(_TASKS, max(_PROGRAMS // len(grads), 1))), 1)
        tasks = triton.cdiv(cut_of_sums.tasks, tiles)
        partials = handed.tables.new_empty(tasks, len(taps), channels, channels)
        inputs = cut.tasks * groups * len(grads) if groups > 1 else 0
        if tasks:
            _products_bwd_kernel[(inputs + tasks * groups**2 * len(grads),)](
                grads, None if groups == 1 and of_ys and one_product else zs, handed.tables, tuple(all_dense(ys)),
                matrices, grad_ys, *masks, partials, cut.rows, channels, tiles, inputs, branches, has_z, taps,
                len(params), *types, cut.blocks[0],
                *cut_of_sums.blocks, groups, num_warps=warps_of(x),
            )  # fmt: skip
    return list(grad_ys), params if masks[2] is None else masks[2], partials


def _cut(x: Tensor, most: int) -> Cut:
    return Cut.of(x.numel() // x.shape[1], x.shape[1], most)


def _dense(handed: Handed) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[int, ...]]:
    """The gradients, the zs and which zs are there; absent ones are never touched: the gradient stands in for them."""
    grads = tuple(all_dense(handed.grads))
    zs = tuple(
        g if z is None else z.contiguous(memory_format=torch.channels_last)
        for g, z in zip(grads, handed.zs, strict=True)
    )
    return grads, zs, tuple(int(z is not None) for z in handed.zs)


def _empty(like: list[Tensor] | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(empty_channels_last(t, t.shape) for t in like)
