"""The backward pass of a mixed layer on the operators: the sum, then the stages from the last to the first and dense
branches, then x."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.mixed_layer.forward import NO_NORMS, run_pools, run_stage
from asose_fast.ops.mixed_layer.operators import Operators
from asose_fast.ops.mixed_layer.plan import LayerPlan, Parts, Saved
from asose_fast.ops.native.add_scaled import add_scaled
from asose_fast.ops.norms import gradients_of_affine

Gradients = list[Tensor | None]
Pair = tuple[Tensor | None, Tensor | None]


class Wanted(NamedTuple):
    """Which gradients are asked for."""

    weights: bool
    x: bool
    parts: Parts
    """Which gradients of the node's other inputs are asked for, and through which dense branches one is handed back:
    that says `zs`, before it says the same of those that were given."""
    counts: list[bool]
    """Which terms may have a weight that is not 0."""
    seen: list[float] | None
    """The weights of all terms, where the host knows them."""
    alive: Tensor | None
    """The weights of the chains, where the host does not know which are 0; None where it does."""
    chains: list[bool]
    """Which chains a gradient is handed back through; `pools` says the same of the pools."""
    pools: list[bool]
    plain: list[bool]
    """Which plain terms want a gradient of their own."""

    @staticmethod
    def of(layer: LayerPlan, needs: Sequence[bool], weights: Tensor) -> Wanted:
        """Told from `ctx.needs_input_grad` and the weights of all terms."""
        _, need_weights, need_x, *rest = needs
        need = layer.split(rest)
        seen = _seen(weights)
        counts = [True] * len(weights) if seen is None else [w != 0 for w in seen]
        chains = [
            tracked and counts[k] and (
                need_x
                or any(row[k] for group in (need.depthwise, need.pointwise) for row in group if k < len(row))
                or any(itertools.chain(*need.affine[: layer.lengths[k] - 1]))
            )
            for k, tracked in enumerate(layer.tracked[: layer.chains])
        ]  # fmt: skip
        first = layer.chains + layer.pools
        dense = [
            tracked and counts[k] and (need_x or any(row))
            for k, (tracked, row) in enumerate(zip(layer.tracked[first:], need.dense, strict=True), first)
        ]
        return Wanted(
            need_weights,
            need_x,
            need._replace(zs=[*dense, *need.zs]),
            counts,
            seen,
            weights[: layer.chains] if seen is None else None,
            chains,
            [need_x and tracked for tracked in layer.tracked[layer.chains : first]],
            [n and not same for n, same in zip(need.plain, layer.plain_is_x, strict=True)],
        )


class Ends(NamedTuple):
    """What the backward pass of the weighted sum gives."""

    weights: Tensor | None
    affine: Pair
    """The gradients of gamma and beta of the last norms."""
    terms: Gradients
    """The gradients of what dense branches give, of zs, then of the plain terms."""
    tables: Tensor
    """(K + J, 4, C): dL/dz of every term, as `mixed_norm_sum`'s backward gives it."""


class Back(NamedTuple):
    """What comes back to the stages of one depth, by chain: dL/dz of their outputs, as `stage_bwd` reads it.

    dL/dz = tables[0] * grad + tables[2] * (z - tables[1]) + tables[3]
    """

    grads: Gradients
    """None for a chain that hands nothing back."""
    zs: Gradients
    """The outputs of the stages whose norms use the statistics of the batch."""
    tables: Tensor
    """The coefficients of that map, (B or more, 4, C); further rows are those of the sum, of chains that end before."""


class Step(NamedTuple):
    """What the backward pass of the stages of one depth gives."""

    depthwise: Gradients
    pointwise: Gradients
    affine: Pair
    """The gradients of gamma and beta of the norms before them."""
    x: Tensor | None
    back: Back
    """What comes back to the depth before; it means nothing at the first depth, which gives dL/dx instead."""


def backward(
    layer: LayerPlan,
    saved: Saved,
    needs: Sequence[bool],
    uses_batch: list[list[bool]],
    grad: Tensor,
    operators: Operators,
) -> tuple[Tensor | None, Tensor | None, Gradients]:
    """The gradients of weights and x, and of the node's other inputs, in their order.

    `needs` is `ctx.needs_input_grad`, `uses_batch` that of the forward pass and `grad` dL/dy.
    """
    wanted = Wanted.of(layer, needs, saved.weights)
    outputs, pooled = _outputs(layer, saved, operators)
    grad = grad.contiguous(memory_format=torch.channels_last)
    uses = uses_batch[-1]
    ends = _ends(layer, saved, wanted, [*layer.last(outputs), *pooled], uses, grad, operators)
    steps = _stages(layer, saved, wanted, outputs, ends.tables, uses_batch, grad, operators)
    of_chains = steps[0].x if steps else None
    count = len(layer.dense)
    dense, rectified = _dense(layer, saved, wanted, ends.terms[:count], operators)
    grad_x = _input(layer, saved, wanted, pooled, ends.tables, uses, grad, of_chains, rectified, operators)
    affine = [*(step.affine for step in steps[1:]), ends.affine]
    rows = *(step.depthwise for step in steps), *(step.pointwise for step in steps), *dense
    return ends.weights, grad_x, [*itertools.chain(*affine, *rows), *ends.terms[count:]]


def _outputs(layer: LayerPlan, saved: Saved, operators: Operators) -> tuple[list[list[Tensor]], list[Tensor]]:
    """The outputs of stages and pools: kept, or computed again."""
    if not layer.recompute:
        return saved.outputs, saved.pooled
    outputs: list[list[Tensor]] = []
    for depth in range(layer.depth):
        stage = saved.stages[depth - 1]
        before = (stage.mean, stage.rstd, *saved.parameters.affine[depth - 1]) if depth else NO_NORMS
        outputs.append(run_stage(saved.x, outputs, layer, saved.parameters, before, False, operators)[0])
    return outputs, run_pools(saved.x, layer, False, False, operators).outputs


def _ends(
    layer: LayerPlan,
    saved: Saved,
    wanted: Wanted,
    outputs: list[Tensor],
    uses: list[bool],
    grad: Tensor,
    operators: Operators,
) -> Ends:
    """The backward pass of the sum and of its norms; `outputs` are those of chains and pools."""
    count, need, (gamma, beta) = saved.mean.shape[0], wanted.parts, saved.affine[-1]
    need_gamma, need_beta = need.affine[-1]
    read = [
        wanted.weights or need_gamma or (in_batch and needed)
        for in_batch, needed in zip(uses, wanted.chains + wanted.pools + need.zs, strict=True)
    ] + [wanted.weights] * len(need.plain)
    own = need.zs + wanted.plain
    found, grad_weights, sums, tables = operators.mixed_norm_sum_bwd(
        grad, list(itertools.compress([*outputs, *saved.zs, *saved.plain], read)), saved.weights, gamma, beta,
        saved.mean, saved.rstd, uses, read, [False] * len(outputs) + own, wanted.weights, need_beta or any(read), True,
        *layer.maxima(saved.places),
    )  # fmt: skip
    affine: Pair = None, None
    if need_gamma or need_beta:
        kept = _keep(saved.weights[:count, None].double(), [*layer.tracked, *[True] * layer.others])
        affine = gradients_of_affine(sums, kept)
    return Ends(grad_weights if wanted.weights else None, affine, placed(found, own), tables)


def _stages(
    layer: LayerPlan,
    saved: Saved,
    wanted: Wanted,
    outputs: list[list[Tensor]],
    tables: Tensor,
    uses_batch: list[list[bool]],
    grad: Tensor,
    operators: Operators,
) -> list[Step]:
    """The backward pass of the stages, from the last depth to the first; the steps by depth.

    `outputs` are those of the stages, which are let go of on the way; `tables` are those of the sum.
    """
    steps: list[Step] = []
    back = Back([], [], tables)
    for depth in reversed(range(layer.depth)):
        low, high = len(back.grads), len(layer.plans[depth].kernels)
        ending = zip(outputs[depth][low:], uses_batch[-1][low:high], strict=True)
        back = Back(
            back.grads + [grad if used else None for used in wanted.chains[low:high]],
            back.zs + [z if in_batch else None for z, in_batch in ending],
            back.tables,
        )
        if any(g is not None for g in back.grads):
            inputs = outputs[depth - 1] if depth else [saved.x]
            step = _stage(layer.plans[depth], saved, wanted, depth, back, inputs, uses_batch, operators)
            outputs[depth].clear()
        else:
            none: Gradients = [None] * high
            step = Step(none, none, (None, None), None, back)
        steps.insert(0, step)
        back = step.back
    return steps


def _stage(
    plan: DepthwisePlan,
    saved: Saved,
    wanted: Wanted,
    depth: int,
    back: Back,
    inputs: list[Tensor],
    uses_batch: list[list[bool]],
    operators: Operators,
) -> Step:
    """The backward pass of the stages of one depth, and of the norms before them."""
    stage, need, used = saved.stages[depth], wanted.parts, [g is not None for g in back.grads]
    uses = uses_batch[depth - 1][: len(used)] if depth else []
    need_affine = depth > 0 and (any(need.affine[depth - 1]) or any(map(all, zip(uses, used, strict=True))))
    if depth:
        # What is not used is not read: another stands in for it.
        stand_in = next(z for z, u in zip(inputs, used, strict=False) if u)
        inputs = [z if u else stand_in for z, u in zip(inputs, used, strict=False)]
    needs = [
        [n and u for n, u in zip(group, used, strict=True)] for group in (need.depthwise[depth], need.pointwise[depth])
    ]
    stage_before = saved.stages[depth - 1]
    before = (stage_before.mean, stage_before.rstd, saved.affine[depth - 1][0]) if depth else (None, None, None)
    grad_inputs, depthwise, pointwise, s0, s1, tables = operators.stage_bwd(
        back.grads, back.zs, back.tables, inputs, stage.params, stage.pointwise, saved.parameters.depthwise[depth],
        saved.parameters.pointwise[depth], *before, None if wanted.alive is None else wanted.alive[: len(used)],
        plan.dilations, plan.stride, used if depth else [wanted.x], *needs, need_affine,
        saved.ys[depth],
    )  # fmt: skip
    gradients = placed(depthwise, needs[0]), placed(pointwise, needs[1])
    if not depth:
        return Step(*gradients, (None, None), next(iter(grad_inputs), None), back)
    zs = [z if b else None for z, b in zip(inputs, uses, strict=True)]
    return Step(*gradients, (s1, s0), None, Back(placed(grad_inputs, used), zs, tables))


def _dense(
    layer: LayerPlan, saved: Saved, wanted: Wanted, grads: Gradients, operators: Operators
) -> tuple[list[Gradients], list[Tensor]]:
    """The backward pass of dense branches: the gradients of their weights, by branch, and those of relu(x)."""
    found: list[Gradients] = []
    rectified = []
    rows = zip(layer.dense, saved.parameters.dense, saved.dense, wanted.parts.dense, grads, strict=True)
    for convs, weights, inputs, needs, grad in rows:
        of_weights: Gradients = [None] * len(convs)
        for i in reversed(range(len(convs) if grad is not None else 0)):
            need_input = wanted.x or any(needs[:i])
            of_input, of_weight = operators.dense_conv_bwd(grad, inputs[i], weights[i], *convs[i], need_input, needs[i])
            grad, of_weights[i] = of_input if need_input else None, of_weight if needs[i] else None
            if grad is None:
                break
        if wanted.x and grad is not None:
            rectified.append(grad)
        found.append(of_weights)
    return found, rectified


def _input(
    layer: LayerPlan,
    saved: Saved,
    wanted: Wanted,
    pooled: list[Tensor],
    tables: Tensor,
    uses: list[bool],
    grad: Tensor,
    of_chains: Tensor | None,
    rectified: list[Tensor],
    operators: Operators,
) -> Tensor | None:
    """dL/dx: what comes through chains, through pools, through plain terms that are x itself, and through relu(x),
    whose gradients are `rectified`."""
    weights, count, chains = saved.weights, saved.mean.shape[0], layer.chains
    pools, of_plain = any(wanted.pools), wanted.x and any(layer.plain_is_x)
    if wanted.seen is not None and of_chains is not None and not pools and not rectified:
        for k, is_x in enumerate(layer.plain_is_x, count):
            if wanted.x and is_x and wanted.counts[k]:
                _add(of_chains, grad, weights[k])
        return of_chains
    if not pools and not of_plain and not rectified:
        return of_chains
    factors = _picked(weights[count:], layer.plain_is_x) if of_plain else weights[:0]
    terms = [grad] * len(factors)
    grad_x: Tensor
    if not pools and of_chains is None and not rectified:
        grad_x = operators.mixed_sum_fwd(terms, factors)
        return grad_x
    grads: Gradients = [None, None]
    zs: Gradients = [None, None]
    if pools:
        used = zip(wanted.pools, wanted.counts[chains:], strict=False)
        grads = [grad if need and counts else None for need, counts in used]
        zs = [z if in_batch else None for z, in_batch in zip(pooled, uses[chains:], strict=False)]
    grad_x = operators.pool_pair_bwd(
        grads, zs, tables[chains : chains + 2] if pools else tables.new_empty(0), saved.x, layer.stride,
        # Those of chains and of relu(x) have no factor: they count once.
        [*terms, *([] if of_chains is None else [of_chains]), *rectified],
        factors,
        len(rectified),
        saved.places,
    )  # fmt: skip
    return grad_x


def _add(to: Tensor, grad: Tensor, share: Tensor) -> None:
    """to += share grad, of tensors on the host."""
    if registry.has_kernels("mixed_sum", to.device.type, to.dtype) and to.stride() == grad.stride():
        add_scaled(to, grad, share)
    else:
        to.add_(grad, alpha=share.item())


def _picked(weights: Tensor, picked: list[bool]) -> Tensor:
    """The weights that are picked, as a view where they lie side by side."""
    first, count = picked.index(True), sum(picked)
    if all(picked[first : first + count]):
        return weights[first : first + count]
    return torch.stack(list(itertools.compress(weights.unbind(), picked)))


def _seen(weights: Tensor) -> list[float] | None:
    """The weights; None where the host would have to wait to know them, and the device is left to see."""
    return weights.tolist() if weights.is_cpu else None


def placed(found: Sequence[Tensor], wanted: Sequence[bool]) -> Gradients:
    """What was found at the places where it is wanted, and None elsewhere."""
    rest = iter(found)
    return [next(rest) if want else None for want in wanted]


def _keep(rows: Tensor, kept: list[bool]) -> Tensor:
    """`rows` with those that are not kept set to 0."""
    if all(kept):
        return rows
    return torch.stack([row if keep else torch.zeros_like(row) for row, keep in zip(rows, kept, strict=True)])
