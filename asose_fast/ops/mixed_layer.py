"""A whole mixed operation as one autograd node: separable branches, pools and the normalised sum (docs/kernels.md)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from asose_fast.ops.autocast import computing_dtype, without_autocast
from asose_fast.ops.autograd import save, transformed, twice_differentiable
from asose_fast.ops.batch_statistics import batch_statistics
from asose_fast.ops.depthwise_plan import Plan
from asose_fast.ops.mixed_layer_checks import check_modules, check_terms
from asose_fast.ops.mixed_layer_reference import differentiable_backward, reference
from asose_fast.ops.mixed_norm_sum import mixed_norm_sum_bwd, mixed_norm_sum_fwd
from asose_fast.ops.mixed_sum import mixed_sum_fwd
from asose_fast.ops.multi_depthwise import accumulation_dtype, pack, unpack
from asose_fast.ops.norms import affine_parameters, check_count, normalisation, of_batch, update_running
from asose_fast.ops.pool_pair import pool_pair_bwd, pool_pair_fwd
from asose_fast.ops.separable import pack_pointwise, separable_bwd, separable_fwd

OPERATORS = ("separable", "pool_pair", "batch_statistics", "mixed_norm_sum")
"""What a mixed layer is made of."""

T = TypeVar("T")


class Stage(NamedTuple):
    """ReLU, depthwise convolution, pointwise convolution, BN."""

    depthwise: nn.Conv2d
    pointwise: nn.Conv2d
    norm: nn.BatchNorm2d


def mixed_layer(
    x: Tensor,
    weights: Tensor,
    chains: Sequence[Sequence[Stage]],
    *,
    stride: int,
    pools: Sequence[nn.BatchNorm2d] = (),
    zs: Sequence[Tensor] = (),
    norms: Sequence[nn.BatchNorm2d] = (),
    plain: Sequence[Tensor] = (),
    plain_weights: Tensor | None = None,
    tracked: Sequence[bool] | None = None,
    recompute: bool = False,
    checked: bool = False,
) -> Tensor:
    """Weighted sum of separable chains, pools and other branches, forward and backward.

    y = sum_k w_k o_k + sum_j v_j plain_j, where o_k is in turn chain_k(x), BN(average of x), BN(maximum of x), BN(z_k)

    Every convolution, statistic and norm is what the modules would compute (running statistics included), on the
    operators `separable`, `pool_pair` and `mixed_norm_sum`: outputs of depthwise convolutions and of norms are never
    stored, statistics come with the convolutions, and the backward of a norm is applied where its result is read.
    With S0 = sum g, S1 = sum g xhat, M = N H W, r = 1 / sqrt(var + eps) and a the scale of the norm (w_k gamma r for a
    last one, whose g is dL/dy; gamma r for others, whose g is that of the next stage's input):

    dL/dz = a g - (a r S1 / M) (z - mean) - a S0 / M

    Args:
        x: (N, C, H, W) float32, float64, bfloat16 or float16; channels_last, or it is copied.
        weights: (K,) architecture weights of chains, pools and zs, in this order.
        chains: stages of every separable branch, the longest first. Convolutions have no bias: depthwise ones of `same`
            padding, the first of the stride and others of stride 1; (C, C) pointwise ones.
        stride: 1 or 2.
        pools: the norms of a 3x3 average pooling without padding in its count and of a 3x3 maximum, or nothing.
        zs, norms: inputs of other branches' last norms, and these norms; zs in the shape of y.
        plain, plain_weights: further terms in the shape of y and their weights, (J,).
        tracked: which of chains and pools hand gradients on to x and their parameters; None for all.
        recompute: whether backward computes the outputs of chains and pools again instead of keeping them.
        checked: whether the caller has seen to it that the modules of chains and pools are for x.

    Returns:
        y (N, C, ceil(H / stride), ceil(W / stride)), channels_last, in the dtype of x.

    Under autocast a float32 x is computed with in autocast's dtype; parameters, their gradients, statistics and sums
    stay in float32 or more.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, chains not sorted by length, or
            fewer than two values a channel where a norm needs the statistics of the batch.
    """
    if not checked:
        check_modules(x, chains, stride, pools)
    check_terms(x, stride, len(chains) + len(pools), weights, zs, norms, plain, plain_weights, tracked)
    lengths = [len(chain) for chain in chains]
    given, x = x, x.to(computing_dtype(x))
    plain = [x if t is given else t for t in plain]
    acc = accumulation_dtype(x.dtype)
    if plain_weights is None:
        plain_weights = weights.new_ones(len(plain))
    if transformed():
        with without_autocast(x):
            return reference(
                x, weights, chains,
                stride=stride, pools=pools, zs=zs, norms=norms, plain=plain, plain_weights=plain_weights,
                tracked=tracked,
            ).to(given.dtype)  # fmt: skip
    stages = [[chain[d] for chain in chains if len(chain) > d] for d in range(max(lengths, default=0))]
    layer = _Layer(
        stride,
        [_plan(row, 1 if depth else stride, depth) for depth, row in enumerate(stages)],
        [[stage.norm for stage in row] for row in stages],
        [chain[-1].norm for chain in chains] + [*pools, *norms],
        lengths,
        len(pools),
        len(zs),
        [t is x for t in plain],
        [True] * (len(chains) + len(pools)) if tracked is None else list(tracked),
        recompute,
    )
    affine = [affine_parameters(row[: len(after)]) for row, after in zip(layer.norms, stages[1:], strict=False)]
    arguments = (
        layer, weights.to(acc), plain_weights.to(acc), x.contiguous(memory_format=torch.channels_last),
        *(t for pair in [*affine, affine_parameters(layer.last_norms)] for t in pair),
        *(stage.depthwise.weight for row in stages for stage in row),
        *(stage.pointwise.weight for row in stages for stage in row),
        *(t.to(x.dtype).contiguous(memory_format=torch.channels_last) for t in (*zs, *plain)),
    )  # fmt: skip
    with without_autocast(x):
        y: Tensor = _MixedLayer.apply(*arguments)
    return y.to(given.dtype)


def _plan(stages: Sequence[Stage], stride: int, depth: int) -> Plan:
    kernels = tuple(stage.depthwise.kernel_size[0] for stage in stages)
    dilations = tuple(stage.depthwise.dilation[0] for stage in stages)
    return Plan(kernels, dilations, len(stages) if depth else 1, stride, True, depth > 0)


class _Layer(NamedTuple):
    """What the node computes, apart from its tensors."""

    stride: int
    plans: list[Plan]
    """Of the stages, by depth; branch k belongs to chain k."""
    norms: list[list[nn.BatchNorm2d]]
    """The norms that follow the stages, by depth."""
    last_norms: list[nn.BatchNorm2d]
    """Those that the sum takes: of chains, pools and others."""
    lengths: list[int]
    pools: int
    others: int
    plain_is_x: list[bool]
    """Which plain terms are x itself: their gradient is part of that of x."""
    tracked: list[bool]
    recompute: bool

    @property
    def chains(self) -> int:
        """How many there are."""
        return len(self.lengths)

    def ends(self, stages: Sequence[T]) -> Iterator[tuple[T, int, int]]:
        """What holds the last rows of chains, and from where to where; all of them in the order of the chains."""
        low = 0
        for stage, plan in reversed(list(zip(stages, self.plans, strict=True))):
            high = len(plan.kernels)
            if low < high:
                yield stage, low, high
            low = high

    def split(self, values: Sequence[Any]) -> _Parts:
        """What follows x among the node's inputs, by its meaning."""
        rest = iter(values)

        def take(count: int) -> list[Any]:
            return list(itertools.islice(rest, count))

        pairs = [tuple(take(2)) for _ in range(max(len(self.plans), 1))]
        counts = [len(plan.kernels) for plan in self.plans]
        return _Parts(pairs, [take(n) for n in counts], [take(n) for n in counts], take(self.others), list(rest))


class _Parts(NamedTuple):
    affine: list[tuple[Any, ...]]
    """gamma and beta: of the norms between two stages, by depth, then of the last norms."""
    depthwise: list[list[Any]]
    pointwise: list[list[Any]]
    zs: list[Any]
    plain: list[Any]


class _Stage(NamedTuple):
    """What the stages of one depth are run with, and the norms that follow them."""

    params: Tensor
    pointwise: Tensor
    mean: Tensor
    rstd: Tensor

    def scale(self, count: int, gamma: Tensor | None) -> Tensor:
        """Of the first norms, as an affine map."""
        return self.rstd[:count] if gamma is None else gamma * self.rstd[:count]


class _MixedLayer(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        ctx, layer, weights, plain_weights, x, *tensors = arguments
        parts = layer.split(tensors)
        acc = accumulation_dtype(x.dtype)
        outputs: list[list[Tensor]] = []
        stages: list[_Stage] = []
        measured: list[tuple[list[nn.BatchNorm2d], Tensor, Tensor]] = []
        for depth, (plan, norms) in enumerate(zip(layer.plans, layer.norms, strict=True)):
            affine: tuple[Tensor, ...] = ()
            if depth:
                gamma, beta = parts.affine[depth - 1]
                scale = stages[-1].scale(len(norms), gamma)
                shift = -stages[-1].mean[: len(norms)] * scale
                affine = scale, shift if beta is None else beta + shift
            params = pack(parts.depthwise[depth], affine, plan.inputs, acc)
            matrices = pack_pointwise(parts.pointwise[depth], acc)
            check_count(norms, torch.Size(plan.out_shape(x)) if not depth else outputs[0][0].shape)
            zs, mean, var = _run_stage(x, outputs, plan, params, matrices, any(map(of_batch, norms)))
            outputs.append(zs)
            stages.append(_Stage(params, matrices, *normalisation(norms, mean, var)))
            measured.append((norms, mean, var))

        pooled = list(pool_pair_fwd(x, layer.stride)) if layer.pools else []
        rest = pooled + parts.zs
        ends = [(stage.mean[low:high], stage.rstd[low:high]) for stage, low, high in layer.ends(stages)]
        if rest:
            norms = layer.last_norms[layer.chains :]
            check_count(norms, rest[0].shape)
            none = weights.new_empty(0)
            mean, var = batch_statistics(rest) if any(map(of_batch, norms)) else (none, none)
            ends.append(normalisation(norms, mean, var))
            measured.append((norms, mean, var))
        mean, rstd = (_joined(rows) for rows in zip(*ends, strict=True))
        final = _last(layer, outputs) + rest
        of_all = [m for m in measured if len(m[1])]
        if of_all:
            norms_of_all, means, variances = zip(*of_all, strict=True)
            update_running(
                list(itertools.chain(*norms_of_all)), _joined(means), _joined(variances),
                final[0].numel() // final[0].shape[1], acc,
            )  # fmt: skip
        gamma, beta = parts.affine[-1]
        all_weights = torch.cat([weights, plain_weights]) if len(plain_weights) else weights
        y: Tensor = mixed_norm_sum_fwd(final + parts.plain, all_weights, gamma, beta, mean, rstd)

        ctx.layer = layer
        ctx.batch = [[of_batch(norm) for norm in norms] for norms in (*layer.norms, layer.last_norms)]
        ctx.like = [None if t is None else (t.dtype, t.shape) for t in tensors]
        # Of a chain that hands no gradient on, only the sums of its last output are wanted.
        kept = [] if layer.recompute else [
            z if layer.tracked[k] or layer.lengths[k] == depth + 1 else None
            for depth, zs in enumerate(outputs) for k, z in enumerate(zs)
        ] + pooled  # fmt: skip
        save(
            ctx, x, all_weights, mean, rstd, *(gamma for gamma, _ in parts.affine), beta,
            *(t for stage in stages for t in stage), *parts.zs, *(parts.plain if ctx.needs_input_grad[2] else ()),
            *kept, weights, plain_weights, *tensors[: len(tensors) - len(parts.zs) - len(parts.plain)],
        )  # fmt: skip
        return y

    @staticmethod
    @twice_differentiable(differentiable_backward)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer: _Layer = ctx.layer
        _, need_weights, need_plain_weights, need_x, *needs = ctx.needs_input_grad
        need = layer.split(needs)
        saved = iter(ctx.saved_tensors)

        def take(count: int) -> list[Any]:
            return list(itertools.islice(saved, count))

        x, weights, mean, rstd = take(4)
        *inner_gammas, gamma, beta = take(len(need.affine) + 1)
        stages = [_Stage(*take(4)) for _ in layer.plans]
        zs = take(layer.others)
        plain = take(len(need.plain)) if need_plain_weights else [None] * len(need.plain)
        outputs: list[list[Tensor]] = []
        if layer.recompute:
            for plan, stage in zip(layer.plans, stages, strict=True):
                outputs.append(_run_stage(x, outputs, plan, stage.params, stage.pointwise, False)[0])
            pooled = list(pool_pair_fwd(x, layer.stride)) if layer.pools else []
        else:
            outputs = [take(len(plan.kernels)) for plan in layer.plans]
            pooled = take(layer.pools)
        grad = grad.contiguous(memory_format=torch.channels_last)
        *batch, last_batch = ctx.batch

        # The sums of all last norms, and the gradients of what is not a chain.
        chains, branches = layer.chains, len(mean)
        seen = _seen(weights)
        counts = [True] * len(weights) if seen is None else seen
        alive = weights[:chains] != 0 if seen is None else None
        of_chain = [
            tracked and counts[k] and (
                need_x
                or any(row[k] for group in need[1:3] for row in group if k < len(row))
                or any(itertools.chain(*need.affine[: layer.lengths[k] - 1]))
            )
            for k, tracked in enumerate(layer.tracked[:chains])
        ]  # fmt: skip
        of_pools = [need_x and tracked for tracked in layer.tracked[chains:]]
        of_plain = [n and not same for n, same in zip(need.plain, layer.plain_is_x, strict=True)]
        need_gamma, need_beta = need.affine[-1]
        read = [
            need_weights or need_gamma or (b and n)
            for b, n in zip(last_batch, of_chain + of_pools + need.zs, strict=True)
        ] + [need_plain_weights] * len(plain)
        need_sums = need_beta or any(read)
        inputs = [*_last(layer, outputs), *pooled, *zs, *plain]
        wanted, sums, tables = mixed_norm_sum_bwd(
            grad, [t for t, is_read in zip(inputs, read, strict=True) if is_read], weights, gamma, mean, rstd,
            last_batch, read, [False] * (chains + layer.pools) + need.zs + of_plain, need_sums, True,
        )  # fmt: skip
        del inputs, zs
        found = iter(wanted)
        rest = [next(found) if needed else None for needed in need.zs + of_plain]
        s0, s1 = sums[:1], sums[1 : 1 + branches]
        grad_weights = grad_plain_weights = None
        if need_weights:
            terms = s1 if gamma is None else gamma * s1
            grad_weights = (terms if beta is None else terms + beta * s0).sum(1).to(weights.dtype)
        if need_plain_weights:
            grad_plain_weights = sums[1 + branches :].sum(1).to(weights.dtype)
        affine: list[tuple[Tensor | None, ...]] = [(None, None)]
        if need_gamma or need_beta:
            own = _keep(weights[:branches, None].double(), [*layer.tracked, *[True] * layer.others])
            affine = [(torch.where(own == 0, 0, own * s1), own * s0)]

        depthwise: list[list[Tensor | None]] = []
        pointwise: list[list[Tensor | None]] = []
        # dL/dz of the stages' outputs, as `separable`'s backward reads it.
        given: list[Tensor | None] = []
        zs_read: list[Tensor | None] = []
        of_inputs = tables[:0]
        grad_x = None
        for depth in reversed(range(len(layer.plans))):
            stage, plan, inner = stages[depth], layer.plans[depth], len(given)
            size = len(plan.kernels)
            given += [grad if u else None for u in of_chain[inner:size]]
            zs_read += [z if b else None for z, b in zip(outputs[depth][inner:], last_batch[inner:size], strict=True)]
            used = [g is not None for g in given]
            if not any(used):
                depthwise.insert(0, [None] * size)
                pointwise.insert(0, [None] * size)
                affine[:0] = [(None, None)] if depth else []
                of_inputs = tables[:size]
                continue
            need_affine = bool(depth) and (
                any(need.affine[depth - 1]) or any(b and u for b, u in zip(batch[depth - 1], used, strict=False))
            )
            # What is not used is not read: the gradient stands in for it.
            inputs = [z if u else grad for z, u in zip(outputs[depth - 1], used, strict=False)] if depth else [x]
            rows_alive = None if alive is None else _rows_of(alive, plan)
            grad_inputs, params, matrices = separable_bwd(
                given, zs_read, torch.cat([of_inputs, tables[inner:size]]) if inner else tables[:size], inputs,
                _only(rows_alive, stage.params), _only(alive, stage.pointwise),
                *plan, used if depth else [need_x],
                any(need.depthwise[depth]), any(need.pointwise[depth]), need_affine,
            )  # fmt: skip
            params, matrices = _only(rows_alive, params), _only(alive, matrices)
            outputs[depth].clear()
            rows: list[Any] = unpack(params, plan) if len(params) else [None] * len(plan.rows)
            depthwise.insert(0, [row if u else None for row, u in zip(rows, used, strict=False)])
            matrices = matrices.unbind() if len(matrices) else [None] * size
            pointwise.insert(0, [matrix if u else None for matrix, u in zip(matrices, used, strict=True)])
            found = iter(grad_inputs)
            if depth == 0:
                grad_x = next(found, None)
                break
            before = stages[depth - 1]
            scale = before.scale(size, inner_gammas[depth - 1])
            mean, rstd = before.mean[:size], before.rstd[:size]
            s0 = rows[-1].double() if need_affine else torch.zeros_like(mean)
            s1 = rstd * (rows[-2].double() - mean * s0) if need_affine else s0
            s1 = _only(alive, _keep(s1, used))  # the statistics of others may not be finite
            affine.insert(0, (s1, s0))
            of_inputs = _only(alive, _table(scale, s0, s1, mean, rstd, grad))
            given = [next(found) if u else None for u in used]
            zs_read = [z if b else None for z, b in zip(inputs, batch[depth - 1], strict=False)]

        terms = [grad] * sum(layer.plain_is_x) if need_x else []
        factors = [v for v, same in zip(weights[branches:].unbind(), layer.plain_is_x, strict=True) if same and need_x]
        if grad_x is not None and (terms or any(of_pools)):
            terms, factors = [*terms, grad_x], [*factors, weights.new_ones(())]
        if any(of_pools):
            grad_x = pool_pair_bwd(
                [grad if n and counts[chains + p] else None for p, n in enumerate(of_pools)],
                [z if b else None for z, b in zip(pooled, last_batch[chains:], strict=False)],
                tables[chains : chains + 2], x, layer.stride, terms,
                torch.stack(factors) if factors else weights[:0],
            )  # fmt: skip
        elif terms:
            grad_x = mixed_sum_fwd(terms, torch.stack(factors))
        grads = [
            *(t for pair in affine for t in pair), *itertools.chain(*depthwise), *itertools.chain(*pointwise),
            *rest,
        ]  # fmt: skip
        return (
            None,
            grad_weights,
            grad_plain_weights,
            grad_x,
            *(
                _as(g, *like) if needed and g is not None else None
                for g, needed, like in zip(grads, needs, ctx.like, strict=True)
            ),
        )


def _seen(weights: Tensor) -> list[bool] | None:
    """Which weights are not 0; None where the host would have to wait to know it, and the device is left to see."""
    return [w != 0 for w in weights.tolist()] if weights.is_cpu else None


def _only(alive: Tensor | None, rows: Tensor) -> Tensor:
    """The rows of branches that are alive, and 0 for the others, whatever they hold; all of them for None."""
    if alive is None or not len(rows):
        return rows
    return torch.where(alive[: len(rows)].view(-1, *[1] * (rows.dim() - 1)), rows, 0)


def _joined(rows: Sequence[Tensor]) -> Tensor:
    """One after the other; a lone tensor as it is."""
    return rows[0] if len(rows) == 1 else torch.cat(list(rows))


def _rows_of(alive: Tensor, plan: Plan) -> Tensor:
    """Of which rows of params the branches are alive."""
    taps = [is_alive.expand(count) for is_alive, count in zip(alive.unbind(), plan.taps, strict=False)]
    return torch.cat([*taps, *[alive[: plan.inputs]] * 2] if plan.affine else taps)


def _keep(rows: Tensor, kept: list[bool]) -> Tensor:
    """Some rows, and 0 for the others."""
    if all(kept):
        return rows
    return torch.stack([row if keep else torch.zeros_like(row) for row, keep in zip(rows, kept, strict=True)])


def _as(grad: Tensor, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    """The gradient in the dtype and shape of its tensor, as it is where it can be."""
    if grad.shape != shape:
        grad = grad.reshape(shape)
    return grad if grad.dtype is dtype else grad.to(dtype)


def _table(scale: Tensor, s0: Tensor, s1: Tensor, mean: Tensor, rstd: Tensor, grad: Tensor) -> Tensor:
    """(K, 4, C): dL/dz = g + slope * (z - center) + shift, the backward of a norm with that scale."""
    count = grad.numel() // grad.shape[1]
    acc = accumulation_dtype(grad.dtype)
    center = mean.to(acc)
    share = scale / -count
    slope = share * rstd * s1
    shift = share * s0 - slope * (mean - center)
    return torch.stack([torch.ones_like(center), center, slope.to(acc), shift.to(acc)], 1)


def _run_stage(
    x: Tensor, outputs: list[list[Tensor]], plan: Plan, params: Tensor, pointwise: Tensor, statistics: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    inputs = outputs[-1][: plan.inputs] if outputs else [x]
    zs, mean, var = separable_fwd(inputs, params, pointwise, *plan, statistics)
    return zs, mean, var


def _last(layer: _Layer, outputs: list[list[Tensor]]) -> list[Tensor]:
    """The outputs of the chains."""
    return [outputs[n - 1][k] for k, n in enumerate(layer.lengths)]
