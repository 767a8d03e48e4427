# mypy: disable-error-code="import-untyped, untyped-decorator"
"""The weights of `stage` in Triton: a program for each row of params, or of their gradients, of all branches."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.depthwise_plan import pack_pointwise
from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.triton.tiles import launched

DTYPES = FLOATS

_BLOCK = 1024


@launched
@triton.jit
def _pack_kernel(
    depthwise: tl.tuple,
    mean: tl.tensor,  # or None, like rstd, gamma and beta: known when compiling
    rstd: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    table: tl.tensor,  # params of `separable`
    channels: tl.int64,
    TAPS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    line = tl.program_id(1)
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    to = table + line.to(tl.int64) * channels + channel
    for b in tl.static_range(len(TAPS)):
        if (line >= 0) & (line < TAPS[b]):
            w = tl.load(depthwise[b] + channel.to(tl.int64) * TAPS[b] + line, mask=present, other=0.0)
            tl.store(to, w.to(table.dtype.element_ty), mask=present)
        line -= TAPS[b]
    if mean is not None:  # noqa: SIM102 (known when compiling, unlike the next condition)
        if line >= 0:
            of_norm = (line % len(TAPS)).to(tl.int64) * channels + channel
            scale = tl.load(rstd + of_norm, mask=present, other=0.0)
            if gamma is not None:
                scale *= tl.load(gamma + of_norm, mask=present, other=0.0).to(tl.float64)
            shift = -tl.load(mean + of_norm, mask=present, other=0.0) * scale
            if beta is not None:
                shift += tl.load(beta + of_norm, mask=present, other=0.0).to(tl.float64)
            of_shift = (line >= len(TAPS)) & present
            tl.store(to, scale.to(table.dtype.element_ty), mask=present & (of_shift == 0))
            tl.store(to, shift.to(table.dtype.element_ty), mask=of_shift)


@triton.jit
def _is_alive(alive: tl.tensor, branch: tl.tensor, channel: tl.tensor) -> tl.tensor:
    # A vector, because the interpreter cannot widen a scalar condition.
    return tl.load(alive + branch + tl.zeros(channel.shape, tl.int32)) != 0


@launched
@triton.jit
def _unpack_kernel(
    grad_table: tl.tensor,  # or None
    grads: tl.tuple,
    mean: tl.tensor,  # or None, like rstd and gamma
    rstd: tl.tensor,
    gamma: tl.tensor,
    alive: tl.tensor,  # or None
    s0s: tl.tensor,
    s1s: tl.tensor,
    tables: tl.tensor,  # (B, 4, C)
    pixels: tl.float64,
    channels: tl.int64,
    TAPS: tl.constexpr,  # of the branches whose gradients are wanted, else 0
    FIRST: tl.constexpr,  # row of every branch
    WEIGHTS: tl.constexpr,
    USED: tl.constexpr,
    HAS_SUMS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    line = tl.program_id(1)
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    for b in tl.static_range(len(TAPS)):
        if (line >= 0) & (line < TAPS[b]):
            g = tl.load(grad_table + (FIRST[b] + line) * channels + channel, mask=present, other=0.0)
            if alive is not None:
                g = tl.where(_is_alive(alive, b, channel), g, 0.0)
            to = grads[b] + channel.to(tl.int64) * TAPS[b] + line
            tl.store(to, g.to(grads[b].dtype.element_ty), mask=present)
        line -= TAPS[b]
    if mean is not None:
        for b in tl.static_range(len(TAPS)):
            if line == b:
                of_norm = b * channels + channel
                m = tl.load(mean + of_norm, mask=present, other=0.0)
                r = tl.load(rstd + of_norm, mask=present, other=0.0)
                s0 = tl.zeros([BLOCK_C], tl.float64)
                s1 = s0
                if HAS_SUMS:
                    of_table = grad_table + WEIGHTS * channels + of_norm
                    s0 = tl.load(of_table + len(TAPS) * channels, mask=present, other=0.0).to(tl.float64)
                    if USED[b]:
                        s1 = r * (tl.load(of_table, mask=present, other=0.0).to(tl.float64) - m * s0)
                kept = present
                if alive is not None:
                    kept = _is_alive(alive, b, channel)
                    s0 = tl.where(kept, s0, 0.0)
                    s1 = tl.where(kept, s1, 0.0)
                share = r / -pixels
                if gamma is not None:
                    share *= tl.load(gamma + of_norm, mask=present, other=0.0).to(tl.float64)
                slope = share * r * s1
                center = m.to(tables.dtype.element_ty)
                shift = share * s0 - slope * (m - center.to(tl.float64))
                tl.store(s0s + of_norm, s0, mask=present)
                tl.store(s1s + of_norm, s1, mask=present)
                to = tables + b * 4 * channels + channel
                tl.store(to, tl.where(kept, 1.0, 0.0).to(center.dtype), mask=present)
                tl.store(to + channels, tl.where(kept, center, 0.0), mask=present)
                tl.store(to + 2 * channels, tl.where(kept, slope, 0.0).to(center.dtype), mask=present)
                tl.store(to + 3 * channels, tl.where(kept, shift, 0.0).to(center.dtype), mask=present)


@launched
@triton.jit
def _matrices_bwd_kernel(
    grad_matrices: tl.tensor,
    grads: tl.tuple,
    alive: tl.tensor,  # or None
    elements: tl.int64,
    BRANCHES: tl.constexpr,  # of the gradients
    BLOCK: tl.constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < elements
    for i in tl.static_range(len(BRANCHES)):
        if tl.program_id(1) == i:
            g = tl.load(grad_matrices + BRANCHES[i] * elements + at, mask=inside, other=0.0)
            if alive is not None:
                g = tl.where(_is_alive(alive, BRANCHES[i], at), g, 0.0)
            tl.store(grads[i] + at, g.to(grads[i].dtype.element_ty), mask=inside)


def forward(
    depthwise: list[Tensor],
    pointwise: list[Tensor],
    mean: Tensor | None,
    rstd: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """params and pointwise of `separable`."""
    channels, taps = depthwise[0].shape[0], tuple(w.shape[2] * w.shape[3] for w in depthwise)
    rows = sum(taps) + (0 if mean is None else 2 * len(taps))
    params = torch.empty(rows, channels, dtype=dtype, device=depthwise[0].device)
    block = _block(channels)
    _pack_kernel[(triton.cdiv(channels, block), rows)](
        tuple(w.contiguous() for w in depthwise), *map(_dense, (mean, rstd, gamma, beta)), params, channels, taps, block
    )
    return params, pack_pointwise(pointwise, dtype)


def backward(
    grad_params: Tensor,
    grad_matrices: Tensor,
    depthwise: list[Tensor],
    pointwise: list[Tensor],
    mean: Tensor | None,
    rstd: Tensor | None,
    gamma: Tensor | None,
    alive: Tensor | None,
    used: list[bool],
    need_depthwise: list[bool],
    need_pointwise: list[bool],
    has_sums: bool,
    pixels: int,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
    """The gradients (`asose_fast.ops.reference.stage_weights.backward`)."""
    channels, taps = depthwise[0].shape[0], tuple(w.shape[2] * w.shape[3] for w in depthwise)
    norms = 0 if mean is None else len(used)
    s0, s1 = (grad_params.new_empty(norms, channels, dtype=torch.float64) for _ in range(2))
    tables = grad_params.new_empty(norms, 4, channels)
    wanted = tuple(count if need else 0 for count, need in zip(taps, need_depthwise, strict=True))
    lines, block = sum(wanted) + norms, _block(channels)
    grads = tuple(_gradient(w) if need else grad_params for w, need in zip(depthwise, need_depthwise, strict=True))
    alive = _dense(alive)
    if lines:
        _unpack_kernel[(triton.cdiv(channels, block), lines)](
            _dense(grad_params), grads, *map(_dense, (mean, rstd, gamma)), alive, s0, s1, tables, float(pixels),
            channels, wanted, tuple(sum(taps[:b]) for b in range(len(taps))), sum(taps), tuple(used), has_sums, block,
        )  # fmt: skip
    branches = tuple(b for b, need in enumerate(need_pointwise) if need)
    matrices = tuple(_gradient(pointwise[b]) for b in branches)
    if branches:
        elements = channels * channels
        _matrices_bwd_kernel[(triton.cdiv(elements, _BLOCK), len(branches))](
            _dense(grad_matrices), matrices, alive, elements, branches, _BLOCK
        )
    return [g for g, need in zip(grads, need_depthwise, strict=True) if need], list(matrices), s0, s1, tables


def _block(channels: int) -> int:
    block: int = min(triton.next_power_of_2(channels), 128)
    return block


def _dense(table: Tensor | None) -> Tensor | None:
    return None if table is None else table.contiguous()


def _gradient(weight: Tensor) -> Tensor:
    """What the gradient of a weight is written to, in the order of its elements."""
    grad = torch.empty_like(weight)
    return grad if grad.is_contiguous() else torch.empty_like(weight, memory_format=torch.contiguous_format)
