"""What several batch norms normalise by, and their running statistics after a batch."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.checks import check_length, check_like, check_tensor
from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.library import Call, define
from asose_fast.ops.norms import held

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
    mean: Tensor,
    var: Tensor,
    count: int,
    dtype: torch.dtype,
    operator: Call | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(var + eps) that each norm normalises by, (K, C) float64; updates the running statistics.

    These are updated as the modules would, one after the other. A norm in eval mode leaves them as they are.

    Args:
        norms: K of them.
        of_batch: which of them use the statistics of the batch (`norms.uses_batch`).
        mean, var: these statistics, (K, C) float64, biased; both may be empty where no norm uses them.
        count: the values a channel that they are of.
        dtype: that in which PyTorch would have them.
        operator: the registered operator, or its body alone.
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
        mean, var, [m for m in running_mean if m is not None], [v for v in running_var if v is not None],
        [c for c, update in zip(counts, updates, strict=True) if update and c is not None],
        [m is not None for m in running_mean], of_batch, updates, [norm.eps for norm in norms], momenta, count, dtype,
    )  # fmt: skip
    return found


class Norms(NamedTuple):
    """The arguments of the registered operator."""

    mean: Tensor
    var: Tensor
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

    def channels(self) -> int:
        """The channels of every norm."""
        return (self.mean if self.mean.dim() == 2 else self.running_mean[0]).size(-1)

    def rows(self) -> list[tuple[Tensor | None, Tensor | None, Tensor | None]]:
        """Running mean and variance and the count of batches of each norm, where it has them."""
        means, variances, counts = iter(self.running_mean), iter(self.running_var), iter(self.counts)
        return [
            (next(means) if has else None, next(variances) if has else None, next(counts) if update else None)
            for has, update in zip(self.has_running, self.updates, strict=True)
        ]


def _run(*args: Any) -> Any:
    call = Norms(*args)
    return registry.select("norm_tables", call.mean).forward(call)


def _check(*args: Any) -> None:
    where, call = "norm_tables", Norms(*args)
    check_length(f"{where}: of_batch", call.of_batch, 1, len(call.of_batch))
    norms = len(call.of_batch)
    for name in ("has_running", "updates", "eps", "momenta"):
        check_length(f"{where}: {name}", getattr(call, name), norms, norms)
    tracked, updated = sum(call.has_running), sum(call.updates)
    for name, wanted in (("running_mean", tracked), ("running_var", tracked), ("counts", updated)):
        check_length(f"{where}: {name}", getattr(call, name), wanted, wanted)
    if not any(call.of_batch) and call.mean.dim() == 1 and call.mean.shape == (0,) == call.var.shape and tracked:
        check_tensor(f"{where}: running_mean[0]", call.running_mean[0])
        shape: tuple[int, ...] = (0,)
        channels = call.running_mean[0].numel()
    else:
        channels = call.mean.size(1) if call.mean.dim() == 2 else 0
        shape = norms, channels
    if not channels:
        raise ValueError(f"{where}: mean must be (K, C) with C > 0, got {tuple(call.mean.shape)}")
    check_like(f"{where}: mean", call.mean, shape, *((torch.float64,) if len(shape) == 2 else FLOATS))
    check_like(f"{where}: var", call.var, shape, call.mean.dtype)
    for name in ("running_mean", "running_var"):
        for k, table in enumerate(getattr(call, name)):
            check_like(f"{where}: {name}[{k}]", table, (channels,), *FLOATS)
    for k, batches in enumerate(call.counts):
        check_like(f"{where}: counts[{k}]", batches, (), torch.int64)
    for has, of_batch, update in zip(call.has_running, call.of_batch, call.updates, strict=True):
        if (update and not (has and of_batch)) or not (has or of_batch):
            raise ValueError(f"{where}: a norm must have the statistics that it uses, and that it updates")
    if call.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{where}: dtype must be float32 or float64, got {call.dtype}")


def _fake(*args: Any) -> tuple[Tensor, Tensor]:
    call = Norms(*args)
    mean = call.mean.new_empty(len(call.of_batch), call.channels(), dtype=torch.float64)
    return mean, torch.empty_like(mean)


norm_tables_fwd = define(
    "norm_tables(Tensor mean, Tensor var, Tensor(a!)[] running_mean, Tensor(b!)[] running_var, Tensor(c!)[] counts, "
    "bool[] has_running, bool[] of_batch, bool[] updates, float[] eps, float[] momenta, int values, ScalarType dtype) "
    "-> (Tensor, Tensor)",
    _run,
    _fake,
    _check,
)
