"""The forward pass of a mixed layer on the operators."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.library import observed
from asose_fast.ops.mixed_layer.operators import CHECKED, UNCHECKED, Operators
from asose_fast.ops.mixed_layer.plan import LayerPlan, Parts, StageTables, rows
from asose_fast.ops.norm_tables import norm_tables
from asose_fast.ops.norms import check_count, held, uses_batch

CHANGED = "mixed_layer: a candidate's modules changed while another candidate ran"


class Result(NamedTuple):
    """The output, and what a backward pass needs of the way to it."""

    y: Tensor
    mean: Tensor
    rstd: Tensor
    stages: list[StageTables]
    outputs: list[list[Tensor]]
    pooled: list[Tensor]
    uses_batch: list[list[bool]]
    """Which norms use the statistics of the batch: by depth, then the last norms."""
    parts: Parts
    """The node's inputs."""


def forward(layer: LayerPlan, weights: Tensor, x: Tensor, tensors: Sequence[Any]) -> Result:
    """Runs the stages depth by depth, then the pools, and adds all terms up.

    The operators need not look again at what the layer's door has seen, except at what a candidate may have done to the
    modules of another since then.
    """
    looked_at = layer.checked and not observed([x, weights, *tensors])
    operators = UNCHECKED if looked_at else CHECKED
    parts = layer.split(tensors)
    acc = accumulation_dtype(x.dtype)
    shape = layer.out_shape(x) if layer.tracked else parts.zs[0].shape
    values = shape.numel() // shape[1]
    rest_norms = layer.last_norms[layer.chains :]
    uses = [[uses_batch(norm) for norm in norms] for norms in (*layer.norms, rest_norms)]
    check_count(list(chain(*uses)), shape)
    _check_unchanged(layer, parts, shape[1])

    outputs: list[list[Tensor]] = []
    stages: list[StageTables] = []
    for depth, (plan, norms) in enumerate(zip(layer.plans, layer.norms, strict=True)):
        before = (stages[-1].mean, stages[-1].rstd, *parts.affine[depth - 1]) if depth else (None,) * 4
        params, matrices = operators.stage_weights_fwd(parts.depthwise[depth], parts.pointwise[depth], *before, acc)
        zs, mean, var = run_stage(x, outputs, plan, params, matrices, any(uses[depth]), operators)
        outputs.append(zs)
        normalised = norm_tables(norms, uses[depth], mean, var, values, acc, operators.norm_tables_fwd)
        stages.append(StageTables(params, matrices, *normalised))

    pooled = run_pools(x, layer, operators)
    rest = pooled + parts.zs
    ends = [(rows(stage.mean, low, high), rows(stage.rstd, low, high)) for stage, low, high in layer.ends(stages)]
    last_uses = [use for row, low, high in layer.ends(uses[:-1]) for use in row[low:high]] + uses[-1]
    if rest:
        mean, var = operators.batch_statistics_fwd(rest) if any(uses[-1]) else [weights.new_empty(0)] * 2
        ends.append(norm_tables(rest_norms, uses[-1], mean, var, values, acc, operators.norm_tables_fwd))
    mean, rstd = (_joined(tables) for tables in zip(*ends, strict=True))
    y = operators.mixed_norm_sum_fwd(
        layer.last(outputs) + rest + parts.plain, weights, *parts.affine[-1], mean, rstd
    )  # fmt: skip
    return Result(y, mean, rstd, stages, outputs, pooled, [*uses[:-1], last_uses], parts)


def run_stage(
    x: Tensor,
    outputs: list[list[Tensor]],
    plan: DepthwisePlan,
    params: Tensor,
    pointwise: Tensor,
    statistics: bool,
    operators: Operators,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The outputs of the stages of one depth and, if wanted, their statistics; `outputs` are those before."""
    inputs = outputs[-1][: plan.inputs] if outputs else [x]
    zs, mean, var = operators.separable_fwd(inputs, params, pointwise, *plan, statistics)
    return zs, mean, var


def run_pools(x: Tensor, layer: LayerPlan, operators: Operators) -> list[Tensor]:
    """The average and the maximum of x, or nothing."""
    return list(operators.pool_pair_fwd(x, layer.stride)) if layer.pools else []


def _check_unchanged(layer: LayerPlan, parts: Parts, channels: int) -> None:
    """Raises ValueError where weights, or tables of norms, have another shape than the layer was planned for."""
    matrix, table = (channels, channels, 1, 1), (channels,)
    for plan, depthwise, pointwise in zip(layer.plans, parts.depthwise, parts.pointwise, strict=True):
        for kernel, weight, other in zip(plan.kernels, depthwise, pointwise, strict=True):
            if weight.shape != (channels, 1, kernel, kernel) or other.shape != matrix:
                raise ValueError(CHANGED)
    for norm in chain(*layer.norms, layer.last_norms[layer.chains :]):
        for name in ("running_mean", "running_var"):
            running = held(norm, name)
            if running is not None and running.shape != table:
                raise ValueError(CHANGED)
    for gamma, beta in parts.affine:
        if any(t is not None and t.shape[1:] != table for t in (gamma, beta)):
            raise ValueError(CHANGED)


def _joined(tables: Sequence[Tensor]) -> Tensor:
    """One after the other; a lone tensor as it is."""
    return tables[0] if len(tables) == 1 else torch.cat(list(tables))
