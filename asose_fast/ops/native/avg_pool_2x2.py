"""`avg_pool_2x2` on the compiled kernels (csrc/avg_pool_2x2.h)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast.ops.layout import dense
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels, memory
from asose_fast.ops.reference.avg_pool_2x2 import out_shape

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(x: Tensor) -> Tensor:
    """The means."""
    kernels, threads = cpu_kernels()
    x = dense(x)
    y = memory.empty(out_shape(x.shape), x)
    kernels.avg_pool_2x2_forward(DTYPE_CODES[x.dtype], x.shape, address(x), address(y), threads)
    return y


def backward(grad: Tensor, shape: Sequence[int]) -> Tensor:
    """The gradient of an x of this shape."""
    kernels, threads = cpu_kernels()
    grad = dense(grad)
    grad_x = memory.empty(shape, grad)
    kernels.avg_pool_2x2_backward(DTYPE_CODES[grad.dtype], shape, address(grad), address(grad_x), threads)
    return grad_x
