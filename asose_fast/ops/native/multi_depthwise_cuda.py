"""`multi_depthwise` on CUDA: the launchers of all compiled kernels, one more dtype, and gradients in parts."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.native.multi_depthwise import DTYPES as _CPU_DTYPES
from asose_fast.ops.native.multi_depthwise import backward, forward, run_backward

DTYPES = _CPU_DTYPES | {torch.float16}

__all__ = ["DTYPES", "backward", "forward", "summands"]


def summands(
    grads: list[Tensor | None],
    xs: list[Tensor],
    params: Tensor,
    plan: DepthwisePlan,
    need_x: list[bool],
    need_weights: bool,
    need_affine: bool,
) -> tuple[list[Tensor], Tensor]:
    """`backward` with the gradient of params in parts that are yet to be added up, (slices, rows, C).

    Rows that are not needed hold anything.
    """
    return run_backward(grads, xs, params, plan, need_x, need_weights, need_affine, None)
