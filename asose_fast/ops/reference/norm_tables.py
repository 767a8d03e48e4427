"""`norm_tables` in plain PyTorch."""

from __future__ import annotations

from math import isnan

import torch
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.library import present
from asose_fast.ops.norm_tables import Norms
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import batch_statistics

DTYPES = FLOATS


@torch.no_grad()
def forward(call: Norms) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(var + eps) that each norm normalises by, (K, C) float64."""
    call = call.measured()
    batch = list(zip(_rows(call.means), _rows(call.variances), strict=True))
    pairs = [
        batch[row] if of_batch else _wide(running_mean, running_var)
        for (running_mean, running_var, _), of_batch, row in zip(call.running(), call.of_batch, call.rows, strict=True)
    ]
    mean, var = (torch.stack(rows) for rows in zip(*pairs, strict=True))
    eps: float | Tensor = call.eps[0]
    if any(e != eps for e in call.eps):
        # Filled on the device: a copy of a list would have the host wait for it.
        eps = torch.cat([var.new_full((1, 1), e) for e in call.eps])
    rstd = torch.rsqrt(var + eps)
    if call.counts:
        _update(call, mean, var)
    return mean, rstd


def _rows(tables: list[Tensor]) -> list[Tensor]:
    return [row for table in tables for row in table.unbind()]


def _wide(*tables: Tensor | None) -> tuple[Tensor, ...]:
    return tuple(table.double() for table in tables if table is not None)


def _update(call: Norms, mean: Tensor, var: Tensor) -> None:
    """Updates the running statistics, in few calls where no norm is there twice."""
    running, new, shares = [], [], []
    unbiased = var * (call.values / max(1, call.values - 1))
    batches = zip(mean.to(call.dtype).unbind(), unbiased.to(call.dtype).unbind(), strict=True)
    at_once = len({id(count) for count in call.counts}) == len(call.counts)
    for rows, pair, momentum in zip(call.running(), batches, call.momenta, strict=True):
        count = rows[2]
        if count is None:
            continue
        for old, row in zip(rows, pair, strict=False):
            assert old is not None
            old, row = old.data, row.to(old.dtype)  # as in PyTorch, a graph of an earlier forward pass does not mind
            if isnan(momentum):
                # The average over all batches; their number stays on its device.
                old.lerp_(row, (count + 1).to(old.dtype).reciprocal())
            elif at_once:
                running.append(old)
                new.append(row)
                shares.append(momentum)
            else:
                old.lerp_(row, momentum)
        if not at_once:
            count.add_(1)
    if at_once:
        torch._foreach_add_(call.counts, 1)
    if running:
        torch._foreach_lerp_(running, new, shares)


def of_one(z: Tensor, norm: OneNorm) -> Tensor:
    """Mean and rstd that one norm normalises z by, (2, C) float64; its running statistics are updated."""
    _, _, running_mean, running_var, batches, of_batch, eps, momentum = norm
    means, variances = ([table] for table in batch_statistics.forward([z])) if of_batch else ([], [])
    call = Norms(
        means, variances, [], [0], present([running_mean]), present([running_var]), present([batches]),
        [running_mean is not None], [of_batch], [batches is not None], [eps], [momentum], z.numel() // z.shape[1],
        accumulation_dtype(z.dtype),
    )  # fmt: skip
    return torch.cat(forward(call))
