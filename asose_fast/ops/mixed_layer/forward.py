"""The forward pass of a mixed layer on the operators."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.library import observed
from asose_fast.ops.mixed_layer.operators import CHECKED, UNCHECKED, Operators
from asose_fast.ops.mixed_layer.plan import LayerPlan, Parts, StageTables
from asose_fast.ops.norm_tables import norm_tables
from asose_fast.ops.norms import check_count, held, uses_batch

NO_NORMS = (None, None, None, None)
CHANGED = "mixed_layer: a candidate's modules changed while another candidate ran"


class Pools(NamedTuple):
    """The poolings of a layer, with what the backend takes along."""

    outputs: list[Tensor]
    """The average and the maximum, or nothing; x for the maximum, where the sum is given its places
    (`LayerPlan.maxima`)."""
    statistics: list[tuple[Tensor, Tensor]]
    """Their means and variances, (2, C) each, or nothing."""
    places: Tensor | None
    """Where the maxima are."""
    active: Tensor
    """relu(x), or nothing where no dense branch reads it."""


class Result(NamedTuple):
    """The output, and what a backward pass needs of the way to it."""

    y: Tensor
    mean: Tensor
    rstd: Tensor
    stages: list[StageTables]
    outputs: list[list[Tensor]]
    pools: Pools
    ys: list[list[Tensor]]
    """The depthwise outputs by depth, where the backend keeps them."""
    dense: list[list[Tensor]]
    """What the convolutions of dense branches read, by branch."""
    uses_batch: list[list[bool]]
    """Which norms use the statistics of the batch: by depth, then the last norms."""
    parts: Parts
    """The node's inputs, with the outputs of dense branches before the zs."""


def forward(layer: LayerPlan, weights: Tensor, x: Tensor, tensors: Sequence[Any]) -> Result:
    """Runs the stages depth by depth, then pools and dense branches, and adds all terms up.

    The operators need not look again at what the layer's door has seen, except at what a candidate may have done to the
    modules of another since then.
    """
    looked_at = layer.checked and not observed([x, weights, *tensors])
    operators = UNCHECKED if looked_at else CHECKED
    parts = layer.split(tensors)
    acc = accumulation_dtype(x.dtype)
    shape = layer.out_shape(x) if layer.tracked else parts.zs[0].shape
    values = shape.numel() // shape[1]
    uses = [[uses_batch(norm) for norm in norms] for norms in (*layer.norms, layer.last_norms[layer.chains :])]
    check_count(list(chain(*uses)), shape)
    _check_unchanged(layer, parts, x.shape, shape)

    outputs: list[list[Tensor]] = []
    kept: list[list[Tensor]] = []
    stages: list[StageTables] = []
    statistics: list[tuple[Tensor, Tensor]] = []
    for depth, norms in enumerate(layer.norms):
        before = (stages[-1].mean, stages[-1].rstd, *parts.affine[depth - 1]) if depth else NO_NORMS
        zs, params, matrices, *found, ys = run_stage(x, outputs, layer, parts, before, any(uses[depth]), operators)
        outputs.append(zs)
        kept.append(ys)
        statistics.append((found[0], found[1]))
        inner = layer.inputs(depth + 1)
        normalised: tuple[Tensor | None, Tensor | None] = None, None
        if inner:
            means, variances = ([table] if any(uses[depth]) else [] for table in found)
            normalised = norm_tables(
                norms[:inner], uses[depth][:inner], means, variances, values, acc, None, operators.norm_tables_fwd
            )
        stages.append(StageTables(params, matrices, *normalised))

    pools = run_pools(x, layer, any(uses[-1]), bool(layer.dense), operators)
    dense, zs = _run_dense(pools.active, layer, parts, operators)
    parts = parts._replace(zs=[*zs, *parts.zs])
    rest = parts.zs if pools.statistics else pools.outputs + parts.zs
    statistics += pools.statistics
    mean, rstd, last_uses = _last_tables(layer, uses, statistics, rest if any(uses[-1]) else [], values, acc, operators)
    y = operators.mixed_norm_sum_fwd(
        layer.last(outputs) + pools.outputs + parts.zs + parts.plain, weights, *parts.affine[-1], mean, rstd,
        *layer.maxima(pools.places),
    )  # fmt: skip
    return Result(y, mean, rstd, stages, outputs, pools, kept, dense, [*uses[:-1], last_uses], parts)


def run_stage(
    x: Tensor,
    outputs: list[list[Tensor]],
    layer: LayerPlan,
    parts: Parts,
    before: Sequence[Tensor | None],
    statistics: bool,
    operators: Operators,
) -> Any:
    """What `stage_fwd` gives for the next depth.

    `outputs` are those of the depths before, and `before` are the mean, rstd, gamma and beta of the norms before.
    """
    depth = len(outputs)
    plan = layer.plans[depth]
    inputs = outputs[-1][: plan.inputs] if outputs else [x]
    return operators.stage_fwd(
        inputs, parts.depthwise[depth], parts.pointwise[depth], *before, plan.dilations, plan.stride, statistics
    )


def _last_tables(
    layer: LayerPlan,
    uses: list[list[bool]],
    statistics: Sequence[tuple[Tensor, Tensor]],
    rest: Sequence[Tensor],
    values: int,
    dtype: torch.dtype,
    operators: Operators,
) -> tuple[Tensor, Tensor, list[bool]]:
    """Mean and rstd of the last norms, and which of these norms use the batch.

    `uses` says so for all norms, and `statistics` are those of the depths and, where they are there, of the pools.
    Those of `rest` are yet to be taken.
    """
    # Where the rows of a depth begin among those of all that have statistics.
    first = list(accumulate((len(row) if any(row) else 0 for row in uses), initial=0))
    places = [(depth, k) for depth, low, high in layer.ends(range(layer.depth)) for k in range(low, high)]
    places += [(layer.depth, k) for k in range(len(uses[-1]))]
    last_uses = [uses[depth][k] for depth, k in places]
    there = [pair for pair in statistics if pair[0].dim() == 2]
    mean, rstd = norm_tables(
        layer.last_norms, last_uses, [mean for mean, _ in there], [var for _, var in there], values, dtype,
        [first[depth] + k for depth, k in places], operators.norm_tables_fwd, rest,
    )  # fmt: skip
    return mean, rstd, last_uses


def _run_dense(
    active: Tensor, layer: LayerPlan, parts: Parts, operators: Operators
) -> tuple[list[list[Tensor]], list[Tensor]]:
    """What the convolutions of every dense branch read, and what the last one gives."""
    read, zs = [], []
    for convs, weights in zip(layer.dense, parts.dense, strict=True):
        z, inputs = active, []
        for conv, weight in zip(convs, weights, strict=True):
            inputs.append(z)
            z = operators.dense_conv_fwd(z, weight, *conv)
        read.append(inputs)
        zs.append(z)
    return read, zs


def run_pools(x: Tensor, layer: LayerPlan, for_norms: bool, need_active: bool, operators: Operators) -> Pools:
    """The average and the maximum of x, or nothing."""
    if not layer.pools:
        return Pools([], [], None, x.relu() if need_active else x.new_empty(0))
    avg, largest, mean, var, places, active = operators.pool_pair_fwd(
        x, layer.stride, True, True, for_norms, need_active
    )
    there = mean.dim() == 2
    if there and layer.stride == 1:
        largest = x
    return Pools([avg, largest], [(mean, var)] if there else [], places if there else None, active)


def _check_unchanged(layer: LayerPlan, parts: Parts, given: torch.Size, wanted: torch.Size) -> None:
    """Raises ValueError where weights, or tables of norms, have another shape than the layer was planned for, which is
    `given` one shape and gives one that is `wanted`."""
    channels = wanted[1]
    matrix, table = (channels, channels, 1, 1), (channels,)
    for plan, depthwise, pointwise in zip(layer.plans, parts.depthwise, parts.pointwise, strict=True):
        for kernel, weight, other in zip(plan.kernels, depthwise, pointwise, strict=True):
            if weight.shape != (channels, 1, kernel, kernel) or other.shape != matrix:
                raise ValueError(CHANGED)
    for convs, weights in zip(layer.dense, parts.dense, strict=True):
        made: tuple[int, ...] = given
        for conv, weight in zip(convs, weights, strict=True):
            if weight.dim() != 4 or weight.shape[1] != made[1] or not weight.shape[2] % 2 == weight.shape[3] % 2 == 1:
                raise ValueError(CHANGED)
            made = conv.shape_for(made, weight.shape)
        if made != wanted:
            raise ValueError(CHANGED)
    for norm in chain(*layer.norms, layer.last_norms[layer.chains :]):
        for name in ("running_mean", "running_var"):
            running = held(norm, name)
            if running is not None and running.shape != table:
                raise ValueError(CHANGED)
    for gamma, beta in parts.affine:
        if any(t is not None and t.shape[1:] != table for t in (gamma, beta)):
            raise ValueError(CHANGED)
