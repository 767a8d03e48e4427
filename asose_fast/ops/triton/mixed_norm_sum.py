# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`mixed_norm_sum` in Triton: the sum in one pass; backward one for the sums over channels and one for gradients."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import all_dense, dense, memory_format
from asose_fast.ops.triton.tiles import accumulator, aligned, grid, launched, place, rows_and_channels, tile

DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})

_ELEMENTS = 2048


@triton.jit
def _of_every_channel(value: tl.tensor, channel: tl.tensor) -> tl.tensor:
    # A vector, because the interpreter cannot widen a scalar condition.
    return tl.load(value) + tl.zeros(channel.shape, value.dtype.element_ty)


@launched
@triton.jit
def _terms_kernel(
    weights: tl.tensor,
    gamma: tl.tensor,  # or None, like beta: known when compiling
    beta: tl.tensor,
    means: tl.tensor,
    rstds: tl.tensor,
    tables: tl.tensor,  # (2 K + 1, C): what is subtracted from z_k, what it is multiplied by; what is added at the end
    channels: tl.int64,
    BRANCHES: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    offset = tl.zeros([BLOCK_C], tl.float64)
    for k in tl.static_range(BRANCHES):
        of_k = k * channels + channel
        w = tl.load(weights + k).to(tl.float64)
        mean = tl.load(means + of_k, mask=present, other=0.0)
        scale = w * tl.load(rstds + of_k, mask=present, other=0.0)
        if gamma is not None:
            scale *= tl.load(gamma + of_k, mask=present, other=0.0).to(tl.float64)
        # Means are subtracted before anything is scaled, and what rounding takes from them joins the offset.
        center = mean.to(tables.dtype.element_ty)
        term = scale * (center.to(tl.float64) - mean)
        if beta is not None:
            term += w * tl.load(beta + of_k, mask=present, other=0.0).to(tl.float64)
        offset += tl.where(w != 0, term, 0.0)
        to = tables + 2 * of_k - channel
        tl.store(to, tl.where(w != 0, center, 0.0), mask=present)
        tl.store(to + channels, tl.where(w != 0, scale, 0.0).to(center.dtype), mask=present)
    tl.store(tables + 2 * BRANCHES * channels + channel, offset.to(tables.dtype.element_ty), mask=present)


@launched
@triton.jit
def _mixed_norm_sum_fwd_kernel(
    xs: tl.tuple,
    weights: tl.tensor,
    tables: tl.tensor,
    y: tl.tensor,
    rows: tl.int64,
    channels: tl.int64,
    INNER: tl.constexpr,
    BRANCHES: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    at, inside, channel, present = place(rows, channels, INNER, BLOCK_P, BLOCK_C)
    offset = tl.load(tables + 2 * BRANCHES * channels + channel, mask=present, other=0.0)
    total = tl.zeros([BLOCK_P, BLOCK_C], ACC) + offset[None, :]
    for k in tl.static_range(len(xs)):
        w = _of_every_channel(weights + k, channel)
        # Unlike a branch, an empty mask leaves the loads of several inputs in flight at once.
        x = tl.load(xs[k] + at, mask=inside & (w != 0)[None, :], other=0.0).to(ACC)
        if k < BRANCHES:
            center = tl.load(tables + 2 * k * channels + channel, mask=present, other=0.0)
            scale = tl.load(tables + (2 * k + 1) * channels + channel, mask=present, other=0.0)
            total += scale[None, :] * (x - center[None, :])
        else:
            total += w.to(ACC)[None, :] * x
    tl.store(y + at, total.to(y.dtype.element_ty), mask=inside)


@launched
@triton.jit
def _sums_kernel(
    grad: tl.tensor,
    xs: tl.tuple,
    centers: tl.tensor,
    partials: tl.tensor,  # (tasks, 1 + K + J, C)
    rows: tl.int64,
    channels: tl.int64,
    INNER: tl.constexpr,
    READ: tl.constexpr,
    BRANCHES: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    at, inside, channel, present = place(rows, channels, INNER, BLOCK_P, BLOCK_C)
    g = tl.load(grad + at, mask=inside, other=0.0).to(ACC)
    to = partials + tl.program_id(0).to(tl.int64) * (1 + len(READ)) * channels + channel
    tl.store(to, tl.sum(g, axis=0), mask=present)
    for k in tl.static_range(len(READ)):
        total = tl.zeros([BLOCK_C], ACC)
        if READ[k]:
            x = tl.load(xs[k] + at, mask=inside, other=0.0).to(ACC)
            if k < BRANCHES:
                x -= tl.load(centers + k * channels + channel, mask=present, other=0.0)[None, :]
            total = tl.sum(tl.where(inside, g * x, 0.0), axis=0)
        tl.store(to + (1 + k) * channels, total, mask=present)


@launched
@triton.jit
def _tables_kernel(
    sums: tl.tensor,  # or None
    weights: tl.tensor,
    gamma: tl.tensor,  # or None
    means: tl.tensor,
    rstds: tl.tensor,
    tables: tl.tensor,  # (K + J, 4, C)
    count: tl.int64,
    channels: tl.int64,
    BATCH: tl.constexpr,
    READ: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    # The sums of z - center become those of xhat, and the tables what they make of the gradient.
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    none = tl.zeros([BLOCK_C], tl.float64)
    s0 = none
    if sums is not None:
        s0 = tl.load(sums + channel, mask=present, other=0.0)
    for k in tl.static_range(len(READ)):
        w = tl.load(weights + k)
        scale = none + w.to(tl.float64)
        center = none
        slope = none
        shift = none
        if k < len(BATCH):
            of_k = k * channels + channel
            mean = tl.load(means + of_k, mask=present, other=0.0)
            rstd = tl.load(rstds + of_k, mask=present, other=0.0)
            center = mean.to(ACC).to(tl.float64)
            scale *= rstd
            if gamma is not None:
                scale *= tl.load(gamma + of_k, mask=present, other=0.0).to(tl.float64)
            s1 = none
            if READ[k]:
                of_sum = sums + (1 + k) * channels + channel
                s1 = rstd * (tl.load(of_sum, mask=present, other=0.0) - (mean - center) * s0)
                tl.store(of_sum, s1, mask=present)
            if BATCH[k] and sums is not None:
                share = scale / (none - count)
                slope = share * rstd * s1
                shift = share * s0 - slope * (mean - center)
        to = tables + k * 4 * channels + channel
        tl.store(to, tl.where(w != 0, scale, 0.0).to(ACC), mask=present)
        tl.store(to + channels, tl.where(w != 0, center, 0.0).to(ACC), mask=present)
        tl.store(to + 2 * channels, tl.where(w != 0, slope, 0.0).to(ACC), mask=present)
        tl.store(to + 3 * channels, tl.where(w != 0, shift, 0.0).to(ACC), mask=present)


@launched
@triton.jit
def _grads_kernel(
    grad: tl.tensor,
    xs: tl.tuple,
    tables: tl.tensor,
    grad_xs: tl.tuple,
    weights: tl.tensor,
    rows: tl.int64,
    channels: tl.int64,
    INNER: tl.constexpr,
    BATCH: tl.constexpr,
    NEED: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    channels = aligned(channels, ALIGN)
    at, inside, channel, present = place(rows, channels, INNER, BLOCK_P, BLOCK_C)
    g = tl.load(grad + at, mask=inside, other=0.0).to(ACC)
    for k in tl.static_range(len(NEED)):
        if NEED[k]:
            w = _of_every_channel(weights + k, channel)
            table = tables + k * 4 * channels + channel
            value = tl.load(table, mask=present, other=0.0)[None, :] * g
            if k < len(BATCH):  # noqa: SIM102 (when compiling, BATCH[k] is looked up before an `and` is decided)
                if BATCH[k]:
                    center = tl.load(table + channels, mask=present, other=0.0)[None, :]
                    slope = tl.load(table + 2 * channels, mask=present, other=0.0)[None, :]
                    shift = tl.load(table + 3 * channels, mask=present, other=0.0)[None, :]
                    x = tl.load(xs[k] + at, mask=inside & (w != 0)[None, :], other=0.0).to(ACC)
                    value += slope * (x - center) + shift
            value = tl.where((w != 0)[None, :], value, 0.0)
            tl.store(grad_xs[k] + at, value.to(grad.dtype.element_ty), mask=inside)


def forward(
    xs: list[Tensor], weights: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, rstd: Tensor
) -> Tensor:
    """y = sum_k w_k BN_k(z_k) + sum_j v_j x_j."""
    format = memory_format(xs[0])
    y = torch.empty_like(xs[0], memory_format=format)
    if y.numel() == 0:
        return y
    space, branches = rows_and_channels(y, format), len(mean)
    rows, channels, _ = space
    blocks = tile(rows, channels, _ELEMENTS)
    programs, weights = grid(rows, channels, blocks), weights.contiguous()
    tables = y.new_empty(2 * branches + 1, channels, dtype=accumulation_dtype(y.dtype))
    _terms_kernel[(programs[1],)](
        weights, *map(_contiguous, (gamma, beta)), *map(_wide, (mean, rstd)), tables, channels, branches, blocks[1]
    )
    _mixed_norm_sum_fwd_kernel[programs](
        tuple(all_dense(xs, format)), weights, tables, y, *space, branches, accumulator(y.dtype), *blocks
    )
    return y


def backward(
    grad: Tensor,
    xs: list[Tensor],
    weights: Tensor,
    gamma: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    batch: list[bool],
    read: list[bool],
    need_x: list[bool],
    need_sums: bool,
    channels_last: bool,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Gradients of the xs that need one, the sums and the tables (`asose_fast.ops.mixed_norm_sum.backward`)."""
    format = torch.channels_last if channels_last else torch.contiguous_format
    grad = dense(grad, format)
    saved = iter(all_dense(xs, format))
    # Absent tensors are never touched: grad stands in for them.
    inputs = tuple(next(saved) if is_read else grad for is_read in read)
    space = rows_and_channels(grad, format)
    rows, channels, _ = space
    blocks, acc = tile(rows, channels, _ELEMENTS), accumulator(grad.dtype)
    programs = grid(rows, channels, blocks)
    weights, gamma, mean, rstd = weights.contiguous(), _contiguous(gamma), _wide(mean), _wide(rstd)
    tables = grad.new_empty(len(read), 4, channels, dtype=accumulation_dtype(grad.dtype))
    sums = None
    if need_sums:
        partials = tables.new_empty(programs[0], 1 + len(read), channels)
        if rows:
            _sums_kernel[programs](
                grad, inputs, mean.to(tables.dtype), partials, *space, tuple(read), len(mean), acc, *blocks
            )
        sums = partials.sum(0, dtype=torch.float64)
    _tables_kernel[(programs[1],)](
        sums, weights, gamma, mean, rstd, tables, rows, channels, tuple(batch), tuple(read), acc, blocks[1]
    )
    grad_xs = tuple(torch.empty_like(grad) if need else grad for need in need_x)
    if rows and any(need_x):
        _grads_kernel[programs](
            grad, inputs, tables, grad_xs, weights, *space, tuple(batch), tuple(need_x), acc, *blocks
        )
    return (
        [t for t, need in zip(grad_xs, need_x, strict=True) if need],
        tables.new_empty(0, channels, dtype=torch.float64) if sums is None else sums,
        tables,
    )


def _contiguous(table: Tensor | None) -> Tensor | None:
    return None if table is None else table.contiguous()


def _wide(table: Tensor) -> Tensor:
    return table.double().contiguous()
