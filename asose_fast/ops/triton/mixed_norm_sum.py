# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`mixed_norm_sum` in Triton: the sum in one pass; backward one for the sums over channels and one for gradients."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import all_dense, dense, memory_format
from asose_fast.ops.triton.sums import CHANNELS, SUMMANDS, added_up, sums_of_tiles
from asose_fast.ops.triton.tiles import accumulator, aligned, grid, launched, maxima, place, rows_and_channels, tile

DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
READS_MAXIMA = True
"""`forward` and `backward` take places of maxima, and read these in what was pooled."""

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
    places: tl.tensor,  # or None: of what is read of x_POOLED
    rows: tl.int64,
    channels: tl.int64,
    width: tl.int32,
    INNER: tl.constexpr,
    POOLED: tl.constexpr,
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
        of_k, mask = at, inside & (w != 0)[None, :]
        if places is not None and k == POOLED:
            of_k = maxima(places, at, mask, width, channels, INNER)
        x = tl.load(xs[k] + of_k, mask=mask, other=0.0).to(ACC)
        if k < BRANCHES:
            center = tl.load(tables + 2 * k * channels + channel, mask=present, other=0.0)
            scale = tl.load(tables + (2 * k + 1) * channels + channel, mask=present, other=0.0)
            total += scale[None, :] * (x - center[None, :])
        else:
            total += w.to(ACC)[None, :] * x
    tl.store(y + at, total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _is_set(flags: tl.constexpr, k: tl.tensor) -> tl.tensor:
    number = k * 0
    for i in tl.static_range(len(flags)):
        number += tl.where(k == i, flags[i], 0)
    return number != 0


@launched
@triton.jit
def _tables_kernel(
    partials: tl.tensor,  # or None
    sums: tl.tensor,  # (1 + K + J, C), or None
    weights: tl.tensor,
    gamma: tl.tensor,  # or None
    means: tl.tensor,
    rstds: tl.tensor,
    tables: tl.tensor,  # (K + J, 4, C)
    tasks: tl.int32,
    count: tl.int64,
    channels: tl.int64,
    BATCH: tl.constexpr,
    READ: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    # Of one term. The sums of z - center become those of xhat, and the tables what they make of the gradient.
    k = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    normalised = present & (k < len(BATCH))
    of_k = k.to(tl.int64) * channels + channel
    w = tl.load(weights + k).to(tl.float64)
    mean = tl.load(means + of_k, mask=normalised, other=0.0)
    rstd = tl.load(rstds + of_k, mask=normalised, other=1.0)
    center = mean.to(ACC).to(tl.float64)
    scale = w * rstd
    if gamma is not None:
        scale *= tl.load(gamma + of_k, mask=normalised, other=1.0).to(tl.float64)
    slope = tl.zeros([BLOCK_C], tl.float64)
    shift = slope
    if partials is not None:
        distance = (1 + len(READ)) * channels
        s0 = added_up(partials + channel, distance, tasks, present, BLOCK_T, BLOCK_C)
        if k == 0:
            tl.store(sums + channel, s0, mask=present)
        s1 = added_up(partials + channels + of_k, distance, tasks, present & _is_set(READ, k), BLOCK_T, BLOCK_C)
        s1 = tl.where(normalised & _is_set(READ, k), rstd * (s1 - (mean - center) * s0), s1)
        tl.store(sums + channels + of_k, s1, mask=present)
        in_batch = normalised & _is_set(BATCH, k)
        share = scale / (tl.zeros([BLOCK_C], tl.float64) - count)
        slope = tl.where(in_batch, share * rstd * s1, 0.0)
        shift = tl.where(in_batch, share * s0 - slope * (mean - center), 0.0)
    to = tables + of_k + 3 * k * channels
    tl.store(to, tl.where(w != 0, scale, 0.0).to(ACC), mask=present)
    tl.store(to + channels, tl.where(w != 0, center, 0.0).to(ACC), mask=present)
    tl.store(to + 2 * channels, tl.where(w != 0, slope, 0.0).to(ACC), mask=present)
    tl.store(to + 3 * channels, tl.where(w != 0, shift, 0.0).to(ACC), mask=present)


@triton.jit
def _store_grad_weights(
    grad_weights: tl.tensor,
    sums: tl.tensor,
    gamma: tl.tensor,  # or None, like beta
    beta: tl.tensor,
    channels: tl.int64,
    NORMS: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    for k in tl.static_range(TERMS):
        total = tl.zeros([BLOCK_C], tl.float64)
        for start in range(0, channels, BLOCK_C):
            channel = start + tl.arange(0, BLOCK_C)
            present = channel < channels
            part = tl.load(sums + (1 + k) * channels + channel, mask=present, other=0.0)
            if k < NORMS:
                if gamma is not None:
                    part *= tl.load(gamma + k * channels + channel, mask=present, other=0.0).to(tl.float64)
                if beta is not None:
                    shift = tl.load(beta + k * channels + channel, mask=present, other=0.0).to(tl.float64)
                    part += shift * tl.load(sums + channel, mask=present, other=0.0)
            total += part
        tl.store(grad_weights + k, tl.sum(total, axis=0).to(grad_weights.dtype.element_ty))


@launched
@triton.jit
def _grad_weights_kernel(
    grad_weights: tl.tensor,
    sums: tl.tensor,
    gamma: tl.tensor,  # or None, like beta
    beta: tl.tensor,
    channels: tl.int64,
    NORMS: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    _store_grad_weights(grad_weights, sums, gamma, beta, channels, NORMS, TERMS, BLOCK_C)


@launched
@triton.jit
def _grads_kernel(
    grad: tl.tensor,
    xs: tl.tuple,
    tables: tl.tensor,
    grad_xs: tl.tuple,
    weights: tl.tensor,
    grad_weights: tl.tensor,  # or None: known when compiling
    sums: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
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
    if grad_weights is not None:  # noqa: SIM102 (known when compiling, unlike the next condition)
        if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
            _store_grad_weights(grad_weights, sums, gamma, beta, channels, len(BATCH), len(NEED), BLOCK_C)
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
    xs: list[Tensor],
    weights: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    places: Tensor | None = None,
    pooled: int = 0,
) -> Tensor:
    """y = sum_k w_k BN_k(z_k) + sum_j v_j x_j. With `places`, the maxima there stand for xs[pooled]."""
    format = memory_format(xs[0])
    y = torch.empty_like(xs[0], memory_format=format)
    if y.numel() == 0:
        return y
    (rows, channels, inner), branches = rows_and_channels(y, format), len(mean)
    blocks = tile(rows, channels, _ELEMENTS)
    programs, weights = grid(rows, channels, blocks), weights.contiguous()
    tables = y.new_empty(2 * branches + 1, channels, dtype=accumulation_dtype(y.dtype))
    _terms_kernel[(programs[1],)](
        weights, *map(_contiguous, (gamma, beta)), *map(_wide, (mean, rstd)), tables, channels, branches, blocks[1]
    )
    _mixed_norm_sum_fwd_kernel[programs](
        tuple(all_dense(xs, format)), weights, tables, y, _dense_places(places, format), rows, channels, y.shape[3],
        inner, pooled, branches, accumulator(y.dtype), *blocks,
    )  # fmt: skip
    return y


def backward(
    grad: Tensor,
    xs: list[Tensor],
    weights: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    batch: list[bool],
    read: list[bool],
    need_x: list[bool],
    need_weights: bool,
    need_sums: bool,
    channels_last: bool,
    places: Tensor | None = None,
    pooled: int = 0,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """The gradients, the sums and the tables (`asose_fast.ops.reference.mixed_norm_sum.backward`)."""
    format = torch.channels_last if channels_last else torch.contiguous_format
    grad = dense(grad, format)
    saved = iter(all_dense(xs, format))
    # Absent tensors are never touched: grad stands in for them.
    inputs = tuple(next(saved) if is_read else grad for is_read in read)
    space = rows_and_channels(grad, format)
    rows, channels, _ = space
    blocks, acc = tile(rows, channels, _ELEMENTS), accumulator(grad.dtype)
    weights, mean, rstd = weights.contiguous(), _wide(mean), _wide(rstd)
    gamma, beta = _contiguous(gamma), _contiguous(beta)
    tables = grad.new_empty(len(read), 4, channels, dtype=accumulation_dtype(grad.dtype))
    partials = sums = None
    if need_sums:
        maxima_at = _dense_places(places, format)
        partials = sums_of_tiles(grad, inputs, mean, tuple(read), format, maxima_at, pooled)
        sums = mean.new_empty(1 + len(read), channels)
    _tables_kernel[(len(read), triton.cdiv(channels, CHANNELS))](
        partials, sums, weights, gamma, mean, rstd, tables, 0 if partials is None else len(partials), rows, channels,
        tuple(map(int, batch)), tuple(map(int, read)), acc, SUMMANDS, CHANNELS, num_warps=8,
    )  # fmt: skip
    grad_xs = tuple(torch.empty_like(grad) if need else grad for need in need_x)
    grad_weights = torch.empty_like(weights) if need_weights else None
    if rows and any(need_x):
        of_batch = [*batch, *[False] * (len(read) - len(batch))]
        again = tuple(x if all(both) else grad for x, *both in zip(inputs, need_x, of_batch, strict=True))
        _grads_kernel[grid(rows, channels, blocks)](
            grad, again, tables, grad_xs, weights, grad_weights, sums, gamma, beta, *space, tuple(batch),
            tuple(need_x), acc, *blocks,
        )  # fmt: skip
    elif grad_weights is not None:
        _grad_weights_kernel[(1,)](
            grad_weights, sums, gamma, beta, channels, len(mean), len(read), blocks[1], num_warps=1
        )
    return (
        [t for t, need in zip(grad_xs, need_x, strict=True) if need],
        weights.new_empty(0) if grad_weights is None else grad_weights,
        tables.new_empty(0, channels, dtype=torch.float64) if sums is None else sums,
        tables,
    )


def _dense_places(places: Tensor | None, format: torch.memory_format) -> Tensor | None:
    return None if places is None else dense(places, format)


def _contiguous(table: Tensor | None) -> Tensor | None:
    return None if table is None else table.contiguous()


def _wide(table: Tensor) -> Tensor:
    return table.double().contiguous()
