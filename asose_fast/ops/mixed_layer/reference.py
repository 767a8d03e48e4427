"""`mixed_layer` in plain differentiable PyTorch: from its modules, and again in a backward pass from what it kept."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from asose_fast.ops.autograd import gradients, stand_in
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import channels_last
from asose_fast.ops.mixed_layer.plan import LayerPlan, Saved
from asose_fast.ops.norms import measured
from asose_fast.ops.reference.convolution import convolution
from asose_fast.ops.reference.dense_conv import reference as dense_reference
from asose_fast.ops.reference.mixed_sum import reference as sum_reference
from asose_fast.ops.reference.pool_pair import reference as pool_reference

Map = Callable[[Tensor], Tensor]


def reference(
    x: Tensor,
    weights: Tensor,
    chains: Sequence[Sequence[tuple[Map, Map, Map]]],
    *,
    stride: int,
    pools: Sequence[Map],
    dense: Sequence[Sequence[Map]],
    zs: Sequence[Tensor],
    norms: Sequence[Map],
    plain: Sequence[Tensor],
    tracked: Sequence[bool] | None,
) -> Tensor:
    """What `mixed_layer` computes, as PyTorch would; of what is given as modules there, any functions do."""
    acc = accumulation_dtype(x.dtype)
    wide = x.to(acc)
    outputs = []
    for chain in chains:
        z = wide
        for depthwise, pointwise, norm in chain:
            z = norm(pointwise(depthwise(z.relu())))
        outputs.append(z)
    if pools:
        outputs += [norm(z) for norm, z in zip(pools, pool_reference(wide, stride=stride), strict=True)]
    first = len(outputs)
    for branch in dense:
        outputs.append(functools.reduce(lambda z, conv: conv(z), branch, wide.relu()))
    outputs[first:] = [norm(z) for norm, z in zip(norms, outputs[first:], strict=False)]
    if tracked is not None:
        outputs = [o if track else o.detach() for o, track in zip(outputs, tracked, strict=True)]
    outputs += [norm(z.to(acc)) for norm, z in zip(norms[len(dense) :], zs, strict=True)]
    y = sum_reference([*outputs, *(t.to(acc) for t in plain)], weights.to(acc))
    return channels_last(y.to(x.dtype))


def differentiable_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The backward of a mixed layer that normalises by what its forward pass normalised by. Everything else is computed
    again, and of the tensors that were kept for the kernels only inputs are read."""
    layer: LayerPlan = ctx.layer
    saved = Saved.of(layer, ctx.needs_input_grad[1], ctx.with_ys, ctx.saved_tensors)
    zs = saved.zs[len(layer.dense) :]
    terms = saved.plain or [stand_in(grad) for _ in layer.plain_is_x]

    def plain(_: object, weights: Tensor, x: Tensor, *tensors: Any) -> Tensor:
        parts = layer.split(tensors)
        *inner, (gamma, beta) = parts.affine
        last_norms = measured(saved.mean, saved.rstd, gamma, beta, ctx.uses_batch[-1])
        chains: list[list[tuple[Map, Map, Map]]] = [[] for _ in layer.lengths]
        for depth, plan in enumerate(layer.plans):
            count = 0 if depth + 1 == layer.depth else len(layer.plans[depth + 1].kernels)
            norms = last_norms[: len(plan.kernels)]
            if count:
                stage = saved.stages[depth]
                assert stage.mean is not None
                assert stage.rstd is not None
                gamma, beta = inner[depth]
                norms[:count] = measured(
                    stage.mean[:count], stage.rstd[:count], gamma, beta, ctx.uses_batch[depth][:count]
                )
            for k, norm in enumerate(norms):
                chains[k].append((
                    convolution(parts.depthwise[depth][k], plan.stride, plan.pad(k), plan.dilations[k], x),
                    convolution(parts.pointwise[depth][k], 1, 0, 1, x),
                    norm,
                ))  # fmt: skip
        dense = [
            [functools.partial(dense_reference, weight=w, conv=conv) for w, conv in zip(weights, convs, strict=True)]
            for weights, convs in zip(parts.dense, layer.dense, strict=True)
        ]
        pools, others = last_norms[layer.chains :][: layer.pools], last_norms[layer.chains + layer.pools :]
        return reference(
            x, weights, chains,
            stride=layer.stride, pools=pools, dense=dense, zs=parts.zs, norms=others, plain=parts.plain,
            tracked=layer.tracked,
        )  # fmt: skip

    return gradients(ctx, plain, (layer, saved.weights, saved.x, *saved.parameters.flat(), *zs, *terms), [grad])
