"""Mean and variance of every channel of several tensors, as batch normalisation wants them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autograd import transformed
from asose_fast.ops.checks import check_zs
from asose_fast.ops.library import define
from asose_fast.ops.reference.batch_statistics import forward as exact

registry.register(
    "batch_statistics",
    {
        "reference": "asose_fast.ops.reference.batch_statistics",
        "cpu": "asose_fast.ops.native.batch_statistics",
        "triton": "asose_fast.ops.triton.batch_statistics",
    },
)


def batch_statistics(zs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over N, H and W of K tensors, outside autograd.

    mean_kc = sum z_k / M        var_kc = sum (z_k - mean_kc)^2 / M        M = N H W

    Deviations are taken about values of the data and merged in float64 (Chan, Golub and LeVeque, 1983), so that a large
    mean costs no digits of the variance; the results do not depend on the thread count.

    Args:
        zs: K tensors (N, C, H, W) of one shape, dtype (float16, bfloat16, float32, float64) and device. Best in one
            memory format, that of the first: others are copied into it.

    Returns:
        mean and var, (K, C) float64, NaN where M = 0.
    """
    zs = [z.detach() for z in zs]
    mean, var = exact(zs) if transformed() else batch_statistics_fwd(zs)
    return mean, var


def _run(zs: list[Tensor]) -> object:
    return registry.select("batch_statistics", zs[0]).forward(zs)


def _check(zs: list[Tensor]) -> None:
    check_zs("batch_statistics: zs", zs, len(zs))


def _fake(zs: list[Tensor]) -> tuple[Tensor, Tensor]:
    shape = (len(zs), zs[0].size(1))
    return zs[0].new_empty(shape, dtype=torch.float64), zs[0].new_empty(shape, dtype=torch.float64)


batch_statistics_fwd = define("batch_statistics(Tensor[] zs) -> (Tensor, Tensor)", _run, _fake, _check)
