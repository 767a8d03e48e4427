"""`linear` on the compiled kernels (csrc/linear.h): a call a direction, by a plan that is made once a shape."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.dtypes import WIDE
from asose_fast.ops.native import DTYPE_CODES, addresses, memory
from asose_fast.ops.native.kernel_plan import KernelPlan
from asose_fast.ops.native.launches import launch

DTYPES = WIDE
MOST_PRODUCTS = 1 << 22


def unfit(shape: Sequence[int], dtype: torch.dtype, weight: Sequence[int]) -> str | None:
    """Above 2^22 products of a value and a weight PyTorch is as fast."""
    products = prod(shape) * weight[0]
    return f"{products} products are more than {MOST_PRODUCTS}" if products > MOST_PRODUCTS else None


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y."""
    x, weight, bias = x.contiguous(), weight.contiguous(), None if bias is None else bias.contiguous()
    plan = _plan(x.dtype, x.shape, weight.shape, torch.get_num_threads())
    y = x.new_empty(*plan.shapes)
    held, room = memory.workspace(plan.forward_bytes)
    launch(plan.kernels.forward, [*addresses((x, weight, bias, y)), *room])
    del held
    return y


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, need_x: bool, need_weight: bool, need_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias, empty where they are not needed."""
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    plan = _plan(x.dtype, x.shape, weight.shape, torch.get_num_threads())
    of_x, of_weight, of_bias = (
        grad.new_empty(shape) if need else None
        for shape, need in ((x.shape, need_x), (weight.shape, need_weight), (weight.shape[:1], need_bias))
    )
    launch(plan.kernels.backward, addresses((grad, x, weight, of_x, of_weight, of_bias)))
    none = grad.new_empty(0)
    return (
        none if of_x is None else of_x,
        none.clone() if of_weight is None else of_weight,
        none.clone() if of_bias is None else of_bias,
    )


@functools.lru_cache(maxsize=1024)
def _plan(dtype: torch.dtype, shape: torch.Size, weight: torch.Size, threads: int) -> KernelPlan:
    rows, inputs = shape
    kernels = _native.kernels("cpu").LinearPlan(DTYPE_CODES[dtype], rows, inputs, weight[0], threads)
    return KernelPlan(kernels, ((rows, weight[0]),), kernels.forward_bytes)
