# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`norm_tables` in Triton: some channels of one norm a program."""

from __future__ import annotations

from math import isnan

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.norm_tables import Norms
from asose_fast.ops.reference import norm_tables as reference
from asose_fast.ops.triton import batch_statistics
from asose_fast.ops.triton.running import average, known, wide
from asose_fast.ops.triton.tiles import launched

DTYPES = reference.DTYPES

_CHANNELS = 64
"""Of a program."""


@launched
@triton.jit
def _norm_tables_kernel(
    batch_means: tl.tuple,
    batch_variances: tl.tuple,
    running_means: tl.tuple,  # of norms without, anything
    running_variances: tl.tuple,
    counts: tl.tuple,  # of norms that are not updated, anything
    means: tl.tensor,
    rstds: tl.tensor,
    unbiased: tl.float64,
    channels: tl.int64,
    TABLES: tl.constexpr,  # of each norm: which of batch_means has its row, -1 where it does not use the batch
    ROWS: tl.constexpr,
    UPDATES: tl.constexpr,
    EPS: tl.constexpr,
    MOMENTA: tl.constexpr,  # -1 where all batches have the same share
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    for start in range(tl.program_id(1) * BLOCK, channels, tl.num_programs(1) * BLOCK):
        channel = start + tl.arange(0, BLOCK)
        present = channel < channels
        for k in tl.static_range(len(TABLES)):
            if tl.program_id(0) == k:
                at = k * channels + channel
                if TABLES[k] >= 0:
                    row = ROWS[k] * channels + channel
                    mean = tl.load(batch_means[TABLES[k]] + row, mask=present, other=0.0)
                    var = tl.load(batch_variances[TABLES[k]] + row, mask=present, other=0.0)
                else:
                    mean = wide(running_means[k] + channel, present)
                    var = wide(running_variances[k] + channel, present)
                tl.store(means + at, mean, mask=present)
                tl.store(rstds + at, 1 / tl.sqrt(var + EPS[k]), mask=present)
                if UPDATES[k]:
                    if MOMENTA[k] < 0:
                        share = 1 / (tl.load(counts[k]) + 1).to(tl.float64)
                    else:
                        share = tl.full([], MOMENTA[k], tl.float64)
                    average(running_means[k] + channel, mean.to(TYPE), share, present)
                    average(running_variances[k] + channel, (var * unbiased).to(TYPE), share, present)
    for k in tl.static_range(len(TABLES)):
        if UPDATES[k]:  # noqa: SIM102 (known when compiling, unlike the next condition)
            if (tl.program_id(0) == k) & (tl.program_id(1) == 0):
                # Every channel has read the count.
                tl.debug_barrier()
                tl.store(counts[k], tl.load(counts[k]) + 1)


def forward(call: Norms) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(var + eps) that each norm normalises by, (K, C) float64."""
    if not _known(call):
        return reference.forward(call)
    norms, channels, device = len(call.of_batch), call.channels, call.any_tensor().device
    means, rstds = (torch.empty(norms, channels, dtype=torch.float64, device=device) for _ in range(2))
    # What is not there is never touched: another tensor stands in for it.
    running_means, running_variances, counts = (
        tuple(means if table is None else table for table in tables) for tables in zip(*call.running(), strict=True)
    )
    of_batch = list(zip(call.means, call.variances, strict=True))
    if call.zs:
        of_batch.append(batch_statistics.forward(call.zs))
    places = [(i, row) for i, (table, _) in enumerate(of_batch) for row in range(len(table))]
    of_norms = [places[row] if uses else (-1, 0) for uses, row in zip(call.of_batch, call.rows, strict=True)]
    batch = [tuple(t.contiguous() for t in tables) for tables in zip(*of_batch, strict=True)] or [(means,)] * 2
    momenta = tuple(-1.0 if isnan(momentum) else momentum for momentum in call.momenta)
    # Where a count of batches is read, the program that moves it on must have all channels.
    groups = 1 if min(momenta) < 0 else triton.cdiv(channels, _CHANNELS)
    _norm_tables_kernel[(norms, groups)](
        *batch, running_means, running_variances, counts, means, rstds, call.values / max(1, call.values - 1), channels,
        *zip(*of_norms, strict=True), tuple(call.updates), tuple(call.eps), momenta,
        tl.float64 if call.dtype == torch.float64 else tl.float32, _CHANNELS,
    )  # fmt: skip
    return means, rstds


def _known(call: Norms) -> bool:
    """Whether the kernel takes these running statistics: on their device, dense, and of no norm that is there twice."""
    tables = [*call.running_mean, *call.running_var, *call.counts]
    return len({id(table) for table in tables}) == len(tables) and known(tables, call.any_tensor().device)
