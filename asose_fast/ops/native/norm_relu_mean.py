"""`norm_relu_mean` on the compiled kernels (csrc/norm_relu_mean.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense, memory_format
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels, memory
from asose_fast.ops.native.channels import channel_space, groups
from asose_fast.ops.native.one_norm import Gradients, forward_arguments, readable
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import norm_relu_mean as reference

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(x: Tensor, norm: OneNorm) -> tuple[Tensor, Tensor, Tensor]:
    """y, and what backward knows the norm by (`asose_fast.ops.reference.norm_relu_mean.forward`)."""
    if x.numel() == 0 or (given := readable(norm)) is None:
        return reference.forward(x, norm)
    kernels, threads = cpu_kernels()
    format, (images, channels, *_) = memory_format(x), x.shape
    x, space, row = dense(x, format), channel_space(x, format), 8 * channels
    y = torch.empty(images, channels, dtype=x.dtype)
    tables = torch.empty(2, channels, dtype=torch.float64)
    active = torch.empty(2, images, channels, dtype=torch.float64)
    mean = address(tables)
    # Partial sums, statistics of the batch, and tables of the kernel.
    held, (partials, statistics, scratch) = memory.workspace(
        2 * row * groups(space) * norm.of_batch, 2 * row * norm.of_batch, 3 * row
    )
    kernels.norm_relu_mean_forward(
        DTYPE_CODES[x.dtype], images, *space, *forward_arguments(given),
        [address(x), partials, statistics, mean, mean + row, address(active), scratch, address(y)], threads,
    )  # fmt: skip
    del held
    return y, tables, active


def backward(
    grad: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    tables: Tensor,
    active: Tensor,
    of_batch: bool,
    need_x: bool,
    need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients (`asose_fast.ops.reference.norm_relu_mean.backward`)."""
    if x.numel() == 0:
        return reference.backward(grad, x, gamma, beta, tables, active, of_batch, need_x, need_affine)
    kernels, threads = cpu_kernels()
    format, (images, channels, *_) = memory_format(x), x.shape
    x, grad, tables, active = dense(x, format), grad.contiguous(), tables.contiguous(), active.contiguous()
    row, mean = 8 * channels, address(tables)
    # Sums, and tables of what the gradients are.
    held, room = memory.workspace(2 * row, (5 + images) * accumulation_dtype(x.dtype).itemsize * channels)
    grad_x = memory.empty(x.shape, x, format) if need_x else None
    affine = Gradients(gamma, beta, need_affine)
    kernels.norm_relu_mean_backward(
        DTYPE_CODES[x.dtype], images, *channel_space(x, format), *affine.arguments(), of_batch,
        [address(x), address(grad), mean, mean + row, address(active), *room, address(grad_x)], threads,
    )  # fmt: skip
    del held
    return x.new_empty(0) if grad_x is None else grad_x, *affine.found(x)
