"""`pointwise` on the compiled kernels (csrc/pointwise.h)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense
from asose_fast.ops.native import DTYPE_CODES, address, addresses, cpu_kernels, memory
from asose_fast.ops.reference import pointwise as reference
from asose_fast.ops.reference.pointwise import out_shape

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(x: Tensor, weights: list[Tensor], stride: int) -> Tensor:
    """The outputs side by side."""
    if x.numel() == 0:
        return reference.forward(x, weights, stride)
    kernels, threads = cpu_kernels()
    x, z = dense(x), memory.empty(out_shape(x, weights, stride), x)
    matrices = _matrices(weights, x)
    held, (transposed,) = memory.workspace(sum([matrix.nbytes for matrix in matrices]))
    kernels.pointwise_forward(
        DTYPE_CODES[x.dtype], x.shape, [len(w) for w in weights], stride, address(x), addresses(matrices),
        transposed, address(z), threads,
    )  # fmt: skip
    del held
    return z


def backward(
    grad: Tensor, x: Tensor, weights: list[Tensor], stride: int, need_x: bool, need_weights: bool
) -> tuple[Tensor, list[Tensor]]:
    """The gradients of x, empty where it is not needed, and of the weights, none where they are not."""
    if x.numel() == 0:
        return reference.backward(grad, x, weights, stride, need_x, need_weights)
    kernels, threads = cpu_kernels()
    x, grad, matrices = dense(x), dense(grad), _matrices(weights, x)
    grad_x = memory.empty(x.shape, x) if need_x else None
    of_matrices = [torch.empty_like(matrix) for matrix in matrices] if need_weights else []
    held, (partials,) = memory.workspace(_slices(x.shape, stride) * sum([matrix.nbytes for matrix in of_matrices]))
    kernels.pointwise_backward(
        DTYPE_CODES[x.dtype], x.shape, [len(w) for w in weights], stride, address(x), addresses(matrices),
        address(grad), address(grad_x), partials, addresses(of_matrices or [None] * len(matrices)), threads,
    )  # fmt: skip
    del held
    return (
        x.new_empty(0) if grad_x is None else grad_x,
        [_like(rows, w) for rows, w in zip(of_matrices, weights, strict=False)],
    )


@functools.lru_cache(maxsize=1024)
def _slices(shape: torch.Size, stride: int) -> int:
    """The number of partial sums."""
    return int(cpu_kernels()[0].pointwise_slices(shape, stride))


def _like(rows: Tensor, weight: Tensor) -> Tensor:
    """The gradient in the dtype, shape and strides of the weight."""
    usual = weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)
    if usual and rows.dtype is weight.dtype:
        return rows.as_strided(weight.shape, weight.stride())
    return torch.empty_like(weight).copy_(rows.view(weight.shape))


def _matrices(weights: list[Tensor], x: Tensor) -> list[Tensor]:
    """The weights as the kernels read them, in the accumulation dtype of x."""
    return [w.detach().flatten(1).to(accumulation_dtype(x.dtype)).contiguous() for w in weights]
