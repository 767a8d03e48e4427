"""`stage` put together: its weights in plain PyTorch, and `separable` on whatever backend runs it."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.reference import stage_weights

DTYPES = FLOATS


def forward(
    xs: list[Tensor],
    depthwise: list[Tensor],
    pointwise: list[Tensor],
    mean: Tensor | None,
    rstd: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    plan: DepthwisePlan,
    statistics: bool,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """The outputs, params and matrices as `separable` takes them, the statistics of the outputs where wanted, and the
    depthwise outputs where a backend keeps them."""
    acc = accumulation_dtype(xs[0].dtype)
    params, matrices = stage_weights.forward(depthwise, pointwise, mean, rstd, gamma, beta, acc)
    zs, *found = registry.select("separable", xs[0]).forward(xs, params, matrices, plan, statistics)
    return zs, params, matrices, found[0], found[1], []


def backward(
    grads: list[Tensor | None],
    zs: list[Tensor | None],
    tables: Tensor,
    xs: list[Tensor],
    params: Tensor,
    matrices: Tensor,
    depthwise: list[Tensor],
    pointwise: list[Tensor],
    mean: Tensor | None,
    rstd: Tensor | None,
    gamma: Tensor | None,
    alive: Tensor | None,
    plan: DepthwisePlan,
    need_x: list[bool],
    need_depthwise: list[bool],
    need_pointwise: list[bool],
    need_sums: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
    """The gradients of the inputs and weights that need one, S0 and S1 of the norms before, and tables.

    The first B rows of `tables` (B or more, 4, C) are read as `separable` reads them. The tables of the result have in
    their place what the norms before make of a gradient (`stage_weights.backward`); they are empty without norms.
    Gradients of branches whose `alive` is 0 are 0, whatever their statistics hold.
    """
    alive = None if alive is None else alive != 0
    branches, used = len(depthwise), [g is not None for g in grads]
    rows = None if alive is None else _rows_alive(alive, plan)
    grad_xs, grad_params, grad_matrices = registry.select("separable", xs[0]).backward(
        grads, zs, tables[:branches], xs, _only(rows, params), _only(alive, matrices), plan, need_x,
        any(need_depthwise), any(need_pointwise), need_sums,
    )  # fmt: skip
    pixels = xs[0].numel() // xs[0].shape[1]
    of_depthwise, of_pointwise, s0, s1, before = stage_weights.backward(
        grad_params, grad_matrices, depthwise, pointwise, mean, rstd, gamma, alive, used, need_depthwise,
        need_pointwise, need_sums, pixels,
    )  # fmt: skip
    replaced = tables.new_empty(0) if mean is None else torch.cat([before, tables[branches:]])
    return grad_xs, of_depthwise, of_pointwise, s0, s1, replaced


def _only(alive: Tensor | None, rows: Tensor) -> Tensor:
    """`rows` with those of dead branches (weight 0) set to 0, so that their NaNs do not spread."""
    return rows if alive is None else torch.where(alive.view(-1, *[1] * (rows.dim() - 1)), rows, 0)


def _rows_alive(alive: Tensor, plan: DepthwisePlan) -> Tensor:
    """Which rows of params belong to branches that are alive."""
    taps = [is_alive.expand(count) for is_alive, count in zip(alive.unbind(), plan.taps, strict=True)]
    return torch.cat([*taps, *[alive[: plan.inputs]] * 2] if plan.affine else taps)
