"""The public function of a mixed layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asose_fast.ops.autocast import computing_dtype, without_autocast
from asose_fast.ops.autograd import transformed
from asose_fast.ops.dense import Dense
from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.mixed_layer.checks import check_modules, check_terms
from asose_fast.ops.mixed_layer.node import MixedLayer
from asose_fast.ops.mixed_layer.plan import LayerPlan, Stage
from asose_fast.ops.mixed_layer.reference import reference
from asose_fast.ops.norms import affine_parameters, held


def mixed_layer(
    x: Tensor,
    weights: Tensor,
    chains: Sequence[Sequence[Stage]],
    *,
    stride: int,
    pools: Sequence[nn.BatchNorm2d] = (),
    dense: Sequence[Sequence[nn.Conv2d]] = (),
    zs: Sequence[Tensor] = (),
    norms: Sequence[nn.BatchNorm2d] = (),
    plain: Sequence[Tensor] = (),
    plain_weights: Tensor | None = None,
    tracked: Sequence[bool] | None = None,
    recompute: bool = False,
    checked: bool = False,
) -> Tensor:
    """Weighted sum of separable chains, pools, dense and other branches, forward and backward.

    y = sum_k w_k o_k + sum_j v_j plain_j, where o_k is in turn chain_k(x), BN(average of x), BN(maximum of x),
    BN(dense_k(relu(x))), BN(z_k)

    Every convolution, statistic and norm is what the modules would compute (running statistics included), on the
    operators `separable`, `pool_pair` and `mixed_norm_sum`: outputs of depthwise convolutions and of norms are never
    stored, statistics come with the convolutions, and the backward of a norm is applied where its result is read.
    With S0 = sum g, S1 = sum g xhat, M = N H W, r = 1 / sqrt(var + eps) and a the scale of the norm (w_k gamma r for a
    last one, whose g is dL/dy; gamma r for others, whose g is that of the next stage's input):

    dL/dz = a g - (a r S1 / M) (z - mean) - a S0 / M

    Args:
        x: (N, C, H, W) float32, float64, bfloat16 or float16; channels_last, or it is copied.
        weights: (K,) architecture weights of chains, pools, dense and zs, in this order, or (K + J,) with those of
            plain after them.
        chains: stages of every separable branch, the longest first. Convolutions have no bias: depthwise ones of `same`
            padding, the first of the stride and others of stride 1; (C, C) pointwise ones.
        stride: 1 or 2.
        pools: the norms of a 3x3 average pooling without padding in its count and of a 3x3 maximum, or nothing.
        dense: the convolutions of every dense branch, one after the other, without a bias, of odd kernels and `same`
            padding. What they give is in the shape of y.
        zs: inputs of other branches' last norms, in the shape of y.
        norms: the last norms of dense branches, and of zs.
        plain, plain_weights: further terms in the shape of y and their weights, (J,); None: as in weights, or 1.
        tracked: which of chains, pools and dense hand gradients on to x and their parameters; None for all.
        recompute: whether backward computes the outputs of chains and pools again instead of keeping them.
        checked: whether the caller has seen to it that the modules of chains, pools and dense are for x.

    Returns:
        y (N, C, ceil(H / stride), ceil(W / stride)), channels_last, in the dtype of x.

    Under autocast a float32 x is computed with in autocast's dtype; parameters, their gradients, statistics and sums
    stay in float32 or more.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, chains not sorted by length, or
            fewer than two values a channel where a norm needs the statistics of the batch.
    """
    if not checked:
        check_modules(x, chains, stride, pools, dense)
    branches = len(chains) + len(pools) + len(dense)
    check_terms(x, stride, branches, len(dense), weights, zs, norms, plain, plain_weights, tracked)
    lengths = [len(chain) for chain in chains]
    given, x = x, x.to(computing_dtype(x))
    plain = [x if t is given else t for t in plain]
    weights = weights.to(accumulation_dtype(x.dtype))
    if len(weights) < branches + len(zs) + len(plain):
        others = weights.new_ones(len(plain)) if plain_weights is None else plain_weights.to(weights.dtype)
        weights = torch.cat([weights, others])
    if transformed():
        with without_autocast(x):
            return reference(
                x, weights, chains,
                stride=stride, pools=pools, dense=dense, zs=zs, norms=norms, plain=plain, tracked=tracked,
            ).to(given.dtype)  # fmt: skip
    stages = [[chain[d] for chain in chains if len(chain) > d] for d in range(max(lengths, default=0))]
    layer = LayerPlan(
        stride,
        [_plan(row, 1 if depth else stride, depth) for depth, row in enumerate(stages)],
        [[stage.norm for stage in row] for row in stages],
        [chain[-1].norm for chain in chains] + [*pools, *norms],
        lengths,
        len(pools),
        [[Dense.of_module(conv, relu=False) for conv in convs] for convs in dense],
        len(zs),
        [t is x for t in plain],
        [True] * branches if tracked is None else list(tracked),
        recompute,
        checked,
    )
    affine = [affine_parameters(row[: len(after)]) for row, after in zip(layer.norms, stages[1:], strict=False)]
    arguments = (
        layer, weights, x.contiguous(memory_format=torch.channels_last),
        *(t for pair in [*affine, affine_parameters(layer.last_norms)] for t in pair),
        *(held(stage.depthwise, "weight") for row in stages for stage in row),
        *(held(stage.pointwise, "weight") for row in stages for stage in row),
        *(held(conv, "weight") for convs in dense for conv in convs),
        *(t.to(x.dtype).contiguous(memory_format=torch.channels_last) for t in (*zs, *plain)),
    )  # fmt: skip
    with without_autocast(x):
        y: Tensor = MixedLayer.apply(*arguments)
    return y.to(given.dtype)


def _plan(stages: Sequence[Stage], stride: int, depth: int) -> DepthwisePlan:
    kernels = tuple(stage.depthwise.kernel_size[0] for stage in stages)
    dilations = tuple(stage.depthwise.dilation[0] for stage in stages)
    return DepthwisePlan(kernels, dilations, len(stages) if depth else 1, stride, True, depth > 0)
