"""`separable` on GPUs: the convolutions and products of all branches in one launch, unless channels or taps are many.

Backward, each of the two is a launch, and depthwise outputs that were not kept are computed again. Of the operators'
backends each of these steps takes the one that the registry picks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import all_dense, empty_channels_last
from asose_fast.ops.library import present
from asose_fast.ops.triton import depthwise_product, products
from asose_fast.ops.triton.merging import Moments
from asose_fast.ops.triton.products import Handed

DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


def forward(
    xs: list[Tensor], params: Tensor, pointwise: Tensor, plan: DepthwisePlan, statistics: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The outputs of all branches and, where wanted, their means and variances (else empty tensors)."""
    return outputs(xs, params, pointwise, plan, statistics, keep=False)[:3]


def outputs(
    xs: list[Tensor], params: Tensor, pointwise: Tensor, plan: DepthwisePlan, statistics: bool, *, keep: bool = True
) -> tuple[list[Tensor], Tensor, Tensor, list[Tensor]]:
    """What `forward` gives, and the depthwise outputs if they are to be kept."""
    moments = Moments.of(xs[0], *pointwise.shape[:2]) if statistics else None
    if depthwise_product.takes(xs[0], plan):
        zs = _empty(xs[0], plan)
        ys = _empty(xs[0], plan) if keep else []
        depthwise_product.forward(all_dense(xs), params, plan, pointwise, moments, ys or None, zs)
    else:
        ys = registry.select("multi_depthwise", xs[0], plan).forward(xs, params, plan)
        zs = products.forward(ys, pointwise, moments)
    nothing = [params.new_empty(0, dtype=torch.float64) for _ in range(2)]
    return zs, *(moments or nothing), ys


def backward(
    grads: list[Tensor | None],
    zs: list[Tensor | None],
    tables: Tensor,
    xs: list[Tensor],
    params: Tensor,
    pointwise: Tensor,
    plan: DepthwisePlan,
    need_x: list[bool],
    need_depthwise: bool,
    need_pointwise: bool,
    need_affine: bool,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The gradients of the inputs that need it, of params and of pointwise (else empty tensors)."""
    grad_xs, parts, partials = summands(
        grads, zs, tables, xs, params, pointwise, None, plan, need_x, need_depthwise, need_pointwise, need_affine
    )
    grad_params = params.new_empty(0)
    if need_depthwise or need_affine:
        grad_params = parts.sum(0)
        for rows, need in zip(_kinds_of_rows(grad_params, plan), (need_depthwise, need_affine), strict=True):
            if not need:
                rows.zero_()
    if not need_pointwise:
        return grad_xs, grad_params, params.new_empty(0)
    if partials is None:
        return grad_xs, grad_params, torch.zeros_like(pointwise)
    grad_pointwise = partials.sum(0)
    for b in [b for b, g in enumerate(grads) if g is None]:
        grad_pointwise[b].zero_()
    return grad_xs, grad_params, grad_pointwise


def summands(
    grads: list[Tensor | None],
    zs: list[Tensor | None],
    tables: Tensor,
    xs: list[Tensor],
    params: Tensor,
    pointwise: Tensor,
    alive: Tensor | None,
    plan: DepthwisePlan,
    need_x: list[bool],
    need_depthwise: bool,
    need_pointwise: bool,
    need_affine: bool,
    ys: Sequence[Tensor | None] = (),
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """`backward` with the gradients of params and pointwise in parts that are yet to be added up.

    Those of params are (slices, rows, C), and rows that are not needed hold anything. Those of pointwise are
    (tasks, B, C, C), and those of branches without a gradient, or whose `alive` is 0, hold anything; there are none
    where no branch has a gradient or none is needed. `ys` are the depthwise outputs, where they were kept: the zs
    are then products of these.
    """
    depthwise = registry.select("multi_depthwise", xs[0], plan)
    used = [g is not None for g in grads]
    grad_ys: list[Tensor | None] = [None] * len(grads)
    partials = None
    if any(used):
        branches = list(compress(range(len(grads)), used))
        handed = Handed(
            [g for g in grads if g is not None], [zs[b] for b in branches],
            tables.to(accumulation_dtype(xs[0].dtype)).contiguous(), branches,
        )  # fmt: skip
        kept = present([ys[b] for b in branches]) if ys else []
        were_kept = len(kept) == len(branches)
        if need_pointwise and not were_kept:
            kept = depthwise.forward(*_of_branches(branches, xs, params, plan))
        found, params, partials = products.backward(
            handed, kept if need_pointwise else None, pointwise, params, plan, alive, were_kept
        )
        for b, grad_y in zip(branches, found, strict=True):
            grad_ys[b] = grad_y
    rest = grad_ys, xs, params, plan, need_x, need_depthwise, need_affine
    if hasattr(depthwise, "summands"):
        return *depthwise.summands(*rest), partials
    grad_xs, grad_params = depthwise.backward(*rest)
    return grad_xs, grad_params[None], partials


def _empty(x: Tensor, plan: DepthwisePlan) -> list[Tensor]:
    """What the outputs of the branches are written to."""
    return [empty_channels_last(x, plan.out_shape(x)) for _ in plan.kernels]


def _kinds_of_rows(params: Tensor, plan: DepthwisePlan) -> tuple[Tensor, Tensor]:
    """The rows of the weights, and those of the affine maps."""
    weights = sum(plan.taps)
    return params[:weights], params[weights:]


def _of_branches(
    branches: list[int], xs: list[Tensor], params: Tensor, plan: DepthwisePlan
) -> tuple[list[Tensor], Tensor, DepthwisePlan]:
    """The arguments of `multi_depthwise` for some branches."""
    if len(branches) == len(plan.kernels):
        return xs, params, plan
    own = branches if plan.inputs > 1 else [0]
    rows = params.split(plan.rows)
    kept = [rows[b] for b in branches] + [_rows(row, own) for row in rows[len(plan.kernels) :]]
    kernels, dilations = (tuple(values[b] for b in branches) for values in (plan.kernels, plan.dilations))
    return [xs[i] for i in own], torch.cat(kept), plan._replace(kernels=kernels, dilations=dilations, inputs=len(own))


def _rows(table: Tensor, rows: list[int]) -> Tensor:
    """Some rows: an index of numbers on the host would have the host wait for the GPU."""
    return table if len(rows) == len(table) else torch.stack([table[row] for row in rows])
