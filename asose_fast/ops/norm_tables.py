"""What several batch norms normalise by, and their running statistics after a batch."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.checks import check_integer, check_length, check_like, check_tensor, check_zs
from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.library import Call, define
from asose_fast.ops.norms import check_updated, held

registry.register(
    "norm_tables",
    {
        "reference": "asose_fast.ops.reference.norm_tables",
        "cpu": "asose_fast.ops.native.norm_tables",
        "triton": "asose_fast.ops.triton.norm_tables",
    },
    small=True,
)


def norm_tables(
    norms: Sequence[nn.BatchNorm2d],
    of_batch: Sequence[bool],
    means: Sequence[Tensor],
    variances: Sequence[Tensor],
    count: int,
    dtype: torch.dtype,
    rows: Sequence[int] | None = None,
    operator: Call | None = None,
    zs: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(var + eps) that each norm normalises by, (K, C) float64; updates the running statistics.

    These are updated as the modules would, one after the other. A norm in eval mode leaves them as they are.

    Args:
        norms: K of them.
        of_batch: which of them use the statistics of the batch (`norms.uses_batch`).
        means, variances: tables of these statistics, (K_i, C) float64, biased; none where no norm uses them.
        count: the values a channel that they are of.
        dtype: that in which PyTorch would have them.
        rows: the row of every norm in the tables, counted through all of them; it is not read where the norm does not
            use the batch. None: the rows are in the order of the norms.
        operator: the registered operator, or its body alone.
        zs: tensors (N, C, H, W) whose statistics are yet to be taken. Their rows come after those of the tables.
    """
    running_mean, running_var, counts = (
        [held(norm, name) for norm in norms] for name in ("running_mean", "running_var", "num_batches_tracked")
    )
    updates = [
        batches is not None and norm.training and norm.track_running_stats
        for norm, batches in zip(norms, counts, strict=True)
    ]
    momenta = [nan if norm.momentum is None else norm.momentum for norm in norms]
    found: tuple[Tensor, Tensor] = (operator or norm_tables_fwd)(
        means, variances, zs, range(len(norms)) if rows is None else rows,
        [m for m in running_mean if m is not None], [v for v in running_var if v is not None],
        [c for c, update in zip(counts, updates, strict=True) if update and c is not None],
        [m is not None for m in running_mean], of_batch, updates, [norm.eps for norm in norms], momenta, count, dtype,
    )  # fmt: skip
    return found


class Norms(NamedTuple):
    """The arguments of the registered operator."""

    means: list[Tensor]
    variances: list[Tensor]
    zs: list[Tensor]
    """Tensors whose statistics are yet to be taken, a row each."""
    rows: list[int]
    """The row of every norm in these tables and then in zs, counted through all of them."""
    running_mean: list[Tensor]
    running_var: list[Tensor]
    counts: list[Tensor]
    """Of the norms that are updated: how many batches they have seen."""
    has_running: list[bool]
    of_batch: list[bool]
    updates: list[bool]
    eps: list[float]
    momenta: list[float]
    """The share of a batch in the running statistics; NaN where all batches have the same."""
    values: int
    """The values a channel that the statistics of the batch are of."""
    dtype: torch.dtype

    def any_tensor(self) -> Tensor:
        """A tensor of the device."""
        return (self.means or self.running_mean or self.zs)[0]

    @property
    def channels(self) -> int:
        """Those of every norm."""
        like = self.any_tensor()
        return like.shape[1 if like.dim() == 4 else -1]

    def measured(self) -> Norms:
        """The same with the statistics of zs in a table, taken by whatever backend runs `batch_statistics`."""
        if not self.zs:
            return self
        mean, var = registry.select("batch_statistics", self.zs[0]).forward(self.zs)
        return self._replace(means=[*self.means, mean], variances=[*self.variances, var], zs=[])

    def running(self) -> list[tuple[Tensor | None, Tensor | None, Tensor | None]]:
        """Running mean and variance and the count of batches of each norm, where it has them."""
        means, variances, counts = iter(self.running_mean), iter(self.running_var), iter(self.counts)
        return [
            (next(means) if has else None, next(variances) if has else None, next(counts) if update else None)
            for has, update in zip(self.has_running, self.updates, strict=True)
        ]


def _run(*args: Any) -> Any:
    call = Norms(*args)
    return registry.select("norm_tables", call.any_tensor()).forward(call)


def _check(*args: Any) -> None:
    where, call = "norm_tables", Norms(*args)
    check_length(f"{where}: of_batch", call.of_batch, 1, len(call.of_batch))
    norms = len(call.of_batch)
    for name in ("rows", "has_running", "updates", "eps", "momenta"):
        check_length(f"{where}: {name}", getattr(call, name), norms, norms)
    tracked, updated = sum(call.has_running), sum(call.updates)
    for name, wanted in (("running_mean", tracked), ("running_var", tracked), ("counts", updated)):
        check_length(f"{where}: {name}", getattr(call, name), wanted, wanted)
    check_length(f"{where}: variances", call.variances, len(call.means), len(call.means))
    if call.zs:
        check_zs(f"{where}: zs", call.zs, len(call.zs))
    elif not call.means and not tracked:
        raise ValueError(f"{where}: means, zs and running_mean are all missing")
    first = call.any_tensor()
    check_tensor(f"{where}: means[0]", first)
    channels = call.channels if first.dim() else 0
    if not channels:
        raise ValueError(f"{where}: means must be (K, C) with C > 0, got {tuple(first.shape)}")
    for k, z in enumerate(call.zs):
        if z.shape[1] != channels or z.numel() != call.values * channels:
            raise ValueError(
                f"{where}: zs[{k}] must have C = {channels} channels of {call.values} values, got {tuple(z.shape)}"
            )
    for i, (mean, var) in enumerate(zip(call.means, call.variances, strict=True)):
        shape = (mean.shape[0] if mean.dim() else 0, channels)
        check_like(f"{where}: means[{i}]", mean, shape, torch.float64)
        check_like(f"{where}: variances[{i}]", var, shape, torch.float64)
    total = sum([mean.shape[0] for mean in call.means]) + len(call.zs)
    for row, of_batch in zip(call.rows, call.of_batch, strict=True):
        check_integer(f"{where}: rows", row)
        if of_batch and not 0 <= row < total:
            raise ValueError(f"{where}: rows must be below {total}, the rows of means and zs, got {row}")
    for name in ("running_mean", "running_var"):
        for k, table in enumerate(getattr(call, name)):
            check_like(f"{where}: {name}[{k}]", table, (channels,), *FLOATS)
    for k, batches in enumerate(call.counts):
        check_like(f"{where}: counts[{k}]", batches, (), torch.int64)
    for has, of_batch, update in zip(call.has_running, call.of_batch, call.updates, strict=True):
        if (update and not (has and of_batch)) or not (has or of_batch):
            raise ValueError(f"{where}: a norm must have the statistics that it uses, and that it updates")
    for statistics in call.running():
        if statistics[2] is not None:
            check_updated(where, *statistics[:2])
    if call.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{where}: dtype must be float32 or float64, got {call.dtype}")


def _fake(*args: Any) -> tuple[Tensor, Tensor]:
    call = Norms(*args)
    mean = call.any_tensor().new_empty(len(call.of_batch), call.channels, dtype=torch.float64)
    return mean, torch.empty_like(mean)


norm_tables_fwd = define(
    "norm_tables(Tensor[] means, Tensor[] variances, Tensor[] zs, int[] rows, Tensor(a!)[] running_mean, "
    "Tensor(b!)[] running_var, Tensor(c!)[] counts, bool[] has_running, bool[] of_batch, bool[] updates, float[] eps, "
    "float[] momenta, int values, ScalarType dtype) -> (Tensor, Tensor)",
    _run,
    _fake,
    _check,
)
