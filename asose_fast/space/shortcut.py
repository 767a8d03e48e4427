"""The shortcut of a strided block on kernels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from asose_fast.ops import registry
from asose_fast.ops.avg_pool_2x2 import avg_pool_2x2
from asose_fast.ops.tracing import tracing
from asose_fast.space.fit import Fit

LARGE = 1 << 17
"""Elements of a tensor from which on the operator is faster."""


def averaged(x: Tensor, stride: int) -> Tensor:
    """Returns the means of the pixels of x that come together at a stride, (N, C, ceil(H / s), ceil(W / s))."""
    if stride == 2 and _may_run_on_kernels(x):
        return avg_pool_2x2(x)
    return F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False)


def _may_run_on_kernels(x: Tensor) -> bool:
    if torch.compiler.is_compiling() or tracing() or x.numel() < LARGE:
        return False
    return Fit.of(x).takes(x) and registry.has_kernels("avg_pool_2x2", x.device.type, x.dtype)
