"""`stage` in Triton: its weights by a launch before `separable` and one after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.triton import separable, stage_weights
from asose_fast.ops.triton.blend import Blend

DTYPES = FLOATS


def keeps(call: object) -> bool:
    """Depthwise outputs are kept for backward: to compute them again is a pass over the inputs."""
    return True


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
    """The outputs, packed weights, statistics and depthwise outputs (`asose_fast.ops.reference.stage.forward`)."""
    acc = accumulation_dtype(xs[0].dtype)
    params, matrices = stage_weights.forward(depthwise, pointwise, mean, rstd, gamma, beta, acc)
    zs, mean, var, ys = separable.outputs(xs, params, matrices, plan, statistics)
    return zs, params, matrices, mean, var, ys


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
    ys: Sequence[Tensor | None] = (),
    blend: Callable[[list[Tensor]], Blend | None] | None = None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
    """The gradients and the tables (`asose_fast.ops.reference.stage.backward`).

    `ys` are the depthwise outputs, which are computed again unless all that are needed were kept. `blend` says what
    else is handed back, in the last launch, given the gradients of the inputs.
    """
    used, pixels = [g is not None for g in grads], xs[0].numel() // xs[0].shape[1]
    grad_xs, grad_params, grad_matrices = separable.summands(
        grads, zs, tables[: len(depthwise)], xs, params, matrices, alive, plan, need_x, any(need_depthwise),
        any(need_pointwise), need_sums, ys,
    )  # fmt: skip
    return grad_xs, *stage_weights.backward(
        grad_params, grad_matrices, depthwise, pointwise, mean, rstd, gamma, alive, used, need_depthwise,
        need_pointwise, need_sums, pixels, tables, None if blend is None else blend(grad_xs),
    )  # fmt: skip
