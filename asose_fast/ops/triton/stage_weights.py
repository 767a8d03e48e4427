# mypy: disable-error-code="import-untyped, untyped-decorator"
"""The weights of `stage` in Triton: a program for each row of C numbers, of whatever table, in one launch each."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.triton.blend import Blend, blend_bwd
from asose_fast.ops.triton.sums import added_up
from asose_fast.ops.triton.tiles import aligned, launched

DTYPES = FLOATS

_TASKS = 32
"""Parts of a gradient that are added up at a time."""


@launched
@triton.jit
def _pack_kernel(
    depthwise: tl.tuple,
    pointwise: tl.tuple,
    mean: tl.tensor,  # or None, like rstd, gamma and beta: known when compiling
    rstd: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    table: tl.tensor,  # params of `separable`
    matrices: tl.tensor,  # (B, C, C)
    channels: tl.int64,
    TAPS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    line = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    to = table + line.to(tl.int64) * channels + channel
    for b in tl.static_range(len(TAPS)):
        if (line >= 0) & (line < TAPS[b]):
            w = tl.load(depthwise[b] + channel.to(tl.int64) * TAPS[b] + line, mask=present, other=0.0)
            tl.store(to, w.to(table.dtype.element_ty), mask=present)
        line -= TAPS[b]
    if mean is not None:
        if (line >= 0) & (line < 2 * len(TAPS)):
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
        line -= 2 * len(TAPS)
    to = matrices + line.to(tl.int64) * channels + channel
    for b in tl.static_range(len(TAPS)):
        if (line >= 0) & (line < channels):
            w = tl.load(pointwise[b] + line.to(tl.int64) * channels + channel, mask=present, other=0.0)
            tl.store(to, w.to(matrices.dtype.element_ty), mask=present)
        line -= channels.to(tl.int32)


@triton.jit
def _is_alive(alive: tl.tensor, branch: tl.tensor, channel: tl.tensor) -> tl.tensor:
    # A vector, because the interpreter cannot widen a scalar condition.
    return tl.load(alive + branch + tl.zeros(channel.shape, tl.int32)) != 0


@launched
@triton.jit
def _unpack_kernel(
    grad_params: tl.tensor,  # (slices, rows, C), to be added up
    grad_matrices: tl.tensor,  # (tasks, B, C, C), to be added up; or None where no branch is used
    depthwise: tl.tuple,  # the gradients
    pointwise: tl.tuple,
    mean: tl.tensor,  # or None, like rstd and gamma
    rstd: tl.tensor,
    gamma: tl.tensor,
    alive: tl.tensor,  # or None
    s0s: tl.tensor,
    s1s: tl.tensor,
    tables: tl.tensor,  # (B or more, 4, C)
    replaced: tl.tensor,
    pixels: tl.float64,
    slices: tl.int32,
    rows: tl.int64,
    tasks: tl.int32,
    others: tl.int32,  # rows of C in the tables of no branch
    lines: tl.int32,  # of all of these; further programs hand back what a blend does
    grad: tl.tensor,  # or None without a blend, like the next ones up to of_shortcut (`blend.blend_bwd`)
    gain: tl.tensor,
    maps: tl.tensor,
    of_gain: tl.tensor,
    of_shortcut: tl.tensor,
    images: tl.int32,
    height: tl.int32,
    width: tl.int32,
    ADDED: tl.constexpr,
    BLOCK_P: tl.constexpr,
    channels: tl.int64,
    TAPS: tl.constexpr,  # of the branches whose gradients are wanted, else 0
    FIRST: tl.constexpr,  # row of every branch
    WEIGHTS: tl.constexpr,
    USED: tl.constexpr,
    MATRICES: tl.constexpr,  # the branches of the gradients of pointwise
    HAS_SUMS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
) -> None:
    line = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = channel < channels
    for b in tl.static_range(len(TAPS)):
        if (line >= 0) & (line < TAPS[b]):
            row = grad_params + (FIRST[b] + line) * channels + channel
            g = added_up(row, rows * channels, slices, present, BLOCK_T, BLOCK_C).to(replaced.dtype.element_ty)
            if alive is not None:
                g = tl.where(_is_alive(alive, b, channel), g, 0.0)
            to = depthwise[b] + channel.to(tl.int64) * TAPS[b] + line
            tl.store(to, g.to(depthwise[b].dtype.element_ty), mask=present)
        line -= TAPS[b]
    for i in tl.static_range(len(MATRICES)):
        if (line >= 0) & (line < channels):
            at = line.to(tl.int64) * channels + channel
            g = tl.zeros([BLOCK_C], replaced.dtype.element_ty)
            if USED[MATRICES[i]]:
                of_branch = grad_matrices + MATRICES[i] * channels * channels + at
                distance = len(USED) * channels * channels
                g = added_up(of_branch, distance, tasks, present, BLOCK_T, BLOCK_C).to(g.dtype)
            if alive is not None:
                g = tl.where(_is_alive(alive, MATRICES[i], channel), g, 0.0)
            tl.store(pointwise[i] + at, g.to(pointwise[i].dtype.element_ty), mask=present)
        line -= channels.to(tl.int32)
    if mean is not None:
        for b in tl.static_range(len(TAPS)):
            if line == b:
                of_norm = b * channels + channel
                m = tl.load(mean + of_norm, mask=present, other=0.0)
                r = tl.load(rstd + of_norm, mask=present, other=0.0)
                s0 = tl.zeros([BLOCK_C], tl.float64)
                s1 = s0
                if HAS_SUMS:
                    of_table = grad_params + WEIGHTS * channels + of_norm
                    of_shift = of_table + len(TAPS) * channels
                    s0 = added_up(of_shift, rows * channels, slices, present, BLOCK_T, BLOCK_C)
                    if USED[b]:
                        s1 = added_up(of_table, rows * channels, slices, present, BLOCK_T, BLOCK_C)
                        s1 = r * (s1 - m * s0)
                kept = present
                if alive is not None:
                    kept = _is_alive(alive, b, channel)
                    s0 = tl.where(kept, s0, 0.0)
                    s1 = tl.where(kept, s1, 0.0)
                share = r / -pixels
                if gamma is not None:
                    share *= tl.load(gamma + of_norm, mask=present, other=0.0).to(tl.float64)
                slope = share * r * s1
                center = m.to(replaced.dtype.element_ty)
                shift = share * s0 - slope * (m - center.to(tl.float64))
                tl.store(s0s + of_norm, s0, mask=present)
                tl.store(s1s + of_norm, s1, mask=present)
                to = replaced + b * 4 * channels + channel
                tl.store(to, tl.where(kept, 1.0, 0.0).to(center.dtype), mask=present)
                tl.store(to + channels, tl.where(kept, center, 0.0), mask=present)
                tl.store(to + 2 * channels, tl.where(kept, slope, 0.0).to(center.dtype), mask=present)
                tl.store(to + 3 * channels, tl.where(kept, shift, 0.0).to(center.dtype), mask=present)
        line -= len(TAPS)
        if (line >= 0) & (line < others):
            at = (4 * len(TAPS) + line).to(tl.int64) * channels + channel
            value = tl.load(tables + at, mask=present, other=0.0)
            tl.store(replaced + at, value.to(replaced.dtype.element_ty), mask=present)
    if grad is not None:  # noqa: SIM102 (known when compiling, unlike the next condition)
        if tl.program_id(0) >= lines:
            blend_bwd(
                tl.program_id(0) - lines, channel, grad, gain, maps, of_gain, of_shortcut, images, height, width,
                aligned(channels, ALIGN), ADDED, maps.dtype.element_ty, BLOCK_P, BLOCK_C,
            )  # fmt: skip


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
    channels, taps, device = depthwise[0].shape[0], _taps(depthwise), depthwise[0].device
    rows = sum(taps) + (0 if mean is None else 2 * len(taps))
    params = torch.empty(rows, channels, dtype=dtype, device=device)
    matrices = torch.empty(len(pointwise), channels, channels, dtype=dtype, device=device)
    block = _block(channels)
    _pack_kernel[(rows + len(pointwise) * channels, triton.cdiv(channels, block))](
        *(tuple(w.contiguous() for w in weights) for weights in (depthwise, pointwise)),
        *map(_dense, (mean, rstd, gamma, beta)), params, matrices, channels, taps, block,
    )  # fmt: skip
    return params, matrices


def backward(
    grad_params: Tensor,
    grad_matrices: Tensor | None,
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
    tables: Tensor,
    blend: Blend | None = None,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
    """The gradients, and the tables of `stage` (`asose_fast.ops.reference.stage_weights.backward`).

    Here, grad_params are (slices, rows, C) and grad_matrices (tasks, B, C, C), to be added up. The latter hold anything
    for branches that are not used, and are left out where none is. What a `blend` hands back, the same launch writes.
    """
    channels, taps = depthwise[0].shape[0], _taps(depthwise)
    norms = 0 if mean is None else len(used)
    s0, s1 = (grad_params.new_empty(norms, channels, dtype=torch.float64) for _ in range(2))
    replaced = torch.empty_like(tables, memory_format=torch.contiguous_format) if norms else tables.new_empty(0)
    wanted = tuple(count if need else 0 for count, need in zip(taps, need_depthwise, strict=True))
    grads = tuple(_gradient(w) if need else grad_params for w, need in zip(depthwise, need_depthwise, strict=True))
    branches = tuple(b for b, need in enumerate(need_pointwise) if need)
    matrices, others = tuple(_gradient(pointwise[b]) for b in branches), 4 * (len(tables) - norms)
    lines, block = sum(wanted) + len(branches) * channels + (norms and norms + others), _block(channels)
    of_blend = (None,) * 5 + (0, 0, 0, False, 1) if blend is None else blend.arguments(block)
    if programs := lines + (0 if blend is None else blend.tasks(block)):
        _unpack_kernel[(programs, triton.cdiv(channels, block))](
            _dense(grad_params), grad_matrices, grads, matrices,
            *map(_dense, (mean, rstd, gamma, alive)), s0, s1, tables.contiguous(), replaced, float(pixels),
            len(grad_params), sum(taps) + 2 * norms, 0 if grad_matrices is None else len(grad_matrices), others,
            lines, *of_blend, channels, wanted, tuple(sum(taps[:b]) for b in range(len(taps))), sum(taps), tuple(used),
            branches, has_sums, _TASKS, block, math.gcd(channels, 16),
        )  # fmt: skip
    return [g for g, need in zip(grads, need_depthwise, strict=True) if need], list(matrices), s0, s1, replaced


def _taps(depthwise: list[Tensor]) -> tuple[int, ...]:
    return tuple(w.shape[2] * w.shape[3] for w in depthwise)


def _block(channels: int) -> int:
    block: int = min(triton.next_power_of_2(channels), 128)
    return block


def _dense(table: Tensor | None) -> Tensor | None:
    return None if table is None else table.contiguous()


def _gradient(weight: Tensor) -> Tensor:
    """What the gradient of a weight is written to, in the order of its elements."""
    grad = torch.empty_like(weight)
    return grad if grad.is_contiguous() else torch.empty_like(weight, memory_format=torch.contiguous_format)
