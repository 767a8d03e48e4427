"""The forward pass of a mixed layer on the operators."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops.depthwise_plan import DepthwisePlan, pack
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.library import observed
from asose_fast.ops.mixed_layer.operators import CHECKED, UNCHECKED, Operators
from asose_fast.ops.mixed_layer.plan import LayerPlan, Parts, StageTables, rows
from asose_fast.ops.norms import check_count, normalisation, update_running, uses_batch
from asose_fast.ops.separable import pack_pointwise

CHANGED = "mixed_layer: a candidate's modules changed while another candidate ran"


class Batch(NamedTuple):
    """Norms and the statistics of the batch that they are given."""

    norms: Sequence[nn.BatchNorm2d]
    uses: list[bool]
    """Which of the norms normalise by these statistics."""
    mean: Tensor
    var: Tensor
    """(K, C) float64, and so is the mean; both empty where none uses them."""


class Result(NamedTuple):
    """The output, and what a backward pass needs of the way to it."""

    y: Tensor
    weights: Tensor
    """The weights of all terms."""
    mean: Tensor
    rstd: Tensor
    stages: list[StageTables]
    outputs: list[list[Tensor]]
    pooled: list[Tensor]
    uses_batch: list[list[bool]]
    """Which norms use the statistics of the batch: by depth, then the last norms."""
    parts: Parts
    """The node's inputs."""


def forward(layer: LayerPlan, weights: Tensor, plain_weights: Tensor, x: Tensor, tensors: Sequence[Any]) -> Result:
    """Runs the stages depth by depth, then the pools, and adds all terms up.

    The operators need not look again at what the layer's door has seen. What a candidate may have done to the modules
    of another since then would show in the shapes of packed weights and of the norms' tables.
    """
    looked_at = layer.checked and not observed([x, weights, plain_weights, *tensors])
    operators = UNCHECKED if looked_at else CHECKED
    parts = layer.split(tensors)
    acc = accumulation_dtype(x.dtype)
    outputs: list[list[Tensor]] = []
    stages: list[StageTables] = []
    batches: list[Batch] = []
    for depth, (plan, norms) in enumerate(zip(layer.plans, layer.norms, strict=True)):
        affine = _affine(stages[-1], len(norms), *parts.affine[depth - 1]) if depth else ()
        params = pack(parts.depthwise[depth], affine, plan.inputs, acc)
        matrices = pack_pointwise(parts.pointwise[depth], acc)
        uses = [uses_batch(norm) for norm in norms]
        check_count(uses, outputs[0][0].shape if depth else torch.Size(plan.out_shape(x)))
        zs, mean, var = run_stage(x, outputs, plan, params, matrices, any(uses), operators)
        outputs.append(zs)
        stages.append(StageTables(params, matrices, *normalisation(norms, uses, mean, var)))
        batches.append(Batch(norms, uses, mean, var))

    pooled = run_pools(x, layer, operators)
    rest = pooled + parts.zs
    ends = [(rows(stage.mean, low, high), rows(stage.rstd, low, high)) for stage, low, high in layer.ends(stages)]
    last_uses = [use for uses, low, high in layer.ends([batch.uses for batch in batches]) for use in uses[low:high]]
    if rest:
        batch = _measured(rest, layer.last_norms[layer.chains :], weights, operators)
        ends.append(normalisation(*batch))
        last_uses += batch.uses
        batches.append(batch)
    mean, rstd = (_joined(tables) for tables in zip(*ends, strict=True))
    final = layer.last(outputs) + rest
    _update_running([batch for batch in batches if batch.mean.shape[0]], final[0].numel() // final[0].shape[1], acc)
    gamma, beta = parts.affine[-1]
    all_weights = torch.cat([weights, plain_weights]) if plain_weights.shape[0] else weights
    y = _sum(final + parts.plain, all_weights, gamma, beta, mean, rstd, operators)
    uses_of_all = [*(batch.uses for batch in batches[: layer.depth]), last_uses]
    return Result(y, all_weights, mean, rstd, stages, outputs, pooled, uses_of_all, parts)


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
    branches, channels = len(plan.kernels), x.shape[1]
    if params.shape != (sum(plan.rows), channels) or pointwise.shape != (branches, channels, channels):
        raise ValueError(CHANGED)
    inputs = outputs[-1][: plan.inputs] if outputs else [x]
    zs, mean, var = operators.separable_fwd(inputs, params, pointwise, *plan, statistics)
    return zs, mean, var


def run_pools(x: Tensor, layer: LayerPlan, operators: Operators) -> list[Tensor]:
    """The average and the maximum of x, or nothing."""
    return list(operators.pool_pair_fwd(x, layer.stride)) if layer.pools else []


def _sum(
    terms: list[Tensor],
    weights: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    operators: Operators,
) -> Tensor:
    """The weighted sum of normalised and plain terms."""
    shape = mean.shape[0], terms[0].shape[1]
    for table in (gamma, beta, mean, rstd):
        if table is not None and table.shape != shape:
            raise ValueError(CHANGED)
    y: Tensor = operators.mixed_norm_sum_fwd(terms, weights, gamma, beta, mean, rstd)
    return y


def _affine(before: StageTables, count: int, gamma: Tensor | None, beta: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scales and shifts of the first `count` norms as affine maps, (count, C) each."""
    scale = before.scale(count, gamma)
    shift = -rows(before.mean, 0, count) * scale
    return scale, shift if beta is None else beta + shift


def _measured(zs: list[Tensor], norms: Sequence[nn.BatchNorm2d], weights: Tensor, operators: Operators) -> Batch:
    uses = [uses_batch(norm) for norm in norms]
    check_count(uses, zs[0].shape)
    none = weights.new_empty(0)
    return Batch(norms, uses, *(operators.batch_statistics_fwd(zs) if any(uses) else (none, none)))


def _update_running(batches: Sequence[Batch], count: int, acc: torch.dtype) -> None:
    """Updates the running statistics of all norms; `count` values a channel were measured."""
    if batches:
        norms, _, means, variances = zip(*batches, strict=True)
        update_running(list(itertools.chain(*norms)), _joined(means), _joined(variances), count, acc)


def _joined(tables: Sequence[Tensor]) -> Tensor:
    """One after the other; a lone tensor as it is."""
    return tables[0] if len(tables) == 1 else torch.cat(list(tables))
