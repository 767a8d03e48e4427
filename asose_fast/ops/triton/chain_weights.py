# mypy: disable-error-code="import-untyped, untyped-decorator"
"""The depthwise weights of a chain of separable convolutions in Triton: packed in a launch with the norms between."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.triton.one_norm import affine_of, row_of
from asose_fast.ops.triton.tiles import launched


@launched
@triton.jit
def _chain_kernel(
    depthwise: tl.tuple,
    gammas: tl.tuple,  # of the norms before the stages but the first; where there is none, anything, like betas
    betas: tl.tuple,
    tables: tl.tensor,  # (S, 2, C): mean and rstd of the norms; or None
    rows: tl.tensor,  # of C: of every stage its taps and, but for the first, the scale and the shift before it
    channels: tl.int64,
    TAPS: tl.constexpr,
    HAS_GAMMA: tl.constexpr,
    HAS_BETA: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    line = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < channels
    to = rows + line.to(tl.int64) * channels + channel
    for s in tl.static_range(len(TAPS)):
        if (line >= 0) & (line < TAPS[s]):
            w = tl.load(depthwise[s] + channel.to(tl.int64) * TAPS[s] + line, mask=there, other=0.0)
            tl.store(to, w.to(rows.dtype.element_ty), mask=there)
        line -= TAPS[s]
        if s > 0:
            if tables is not None:  # noqa: SIM102 (known when compiling, unlike the next condition)
                if line == 0:
                    table = tables + (s - 1) * 2 * channels + channel
                    mean = tl.load(table, mask=there, other=0.0)
                    rstd = tl.load(table + channels, mask=there, other=0.0)
                    gamma = gammas[s - 1] if HAS_GAMMA[s - 1] else None
                    beta = betas[s - 1] if HAS_BETA[s - 1] else None
                    scale, shift = affine_of(mean, rstd, gamma, beta, channel, there)
                    tl.store(to, scale.to(rows.dtype.element_ty), mask=there)
                    tl.store(to + channels, shift.to(rows.dtype.element_ty), mask=there)
            line -= 2


def pack(
    depthwise: Sequence[Tensor],
    dtype: torch.dtype,
    gamma: Sequence[Tensor | None],
    beta: Sequence[Tensor | None],
    tables: Tensor | None,
) -> list[Tensor]:
    """The params of every stage as `multi_depthwise` takes them: its taps and, but for the first stage, a scale and a
    shift.

    These are of the norm before it, by gamma, beta and `tables` (S, 2, C). Without these they are not written.
    """
    channels, taps = depthwise[0].shape[0], tuple(w.shape[2] * w.shape[3] for w in depthwise)
    lengths = [count + 2 * (s > 0) for s, count in enumerate(taps)]
    rows = torch.empty(sum(lengths), channels, dtype=dtype, device=depthwise[0].device)
    block = min(triton.next_power_of_2(channels), 128)
    affine = [[row_of(table) for table in itertools.islice(of_norms, len(taps) - 1)] for of_norms in (gamma, beta)]
    _chain_kernel[(len(rows), triton.cdiv(channels, block))](
        tuple(w.contiguous() for w in depthwise),
        *(tuple(rows if table is None else table for table in of_norms) for of_norms in affine),
        tables, rows, channels, taps, *(tuple(table is not None for table in of_norms) for of_norms in affine), block,
    )  # fmt: skip
    return list(rows.split(lengths))
