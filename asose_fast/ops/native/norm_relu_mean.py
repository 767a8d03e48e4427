"""`norm_relu_mean` on the compiled kernels (csrc/norm_relu_mean.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense, memory_format
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels, memory
from asose_fast.ops.native.channels import channel_space, groups, wide
from asose_fast.ops.native.norm_tables import known
from asose_fast.ops.reference import norm_relu_mean as reference

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    of_batch: bool,
    eps: float,
    momentum: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, and what backward knows the norm by (`asose_fast.ops.reference.norm_relu_mean.forward`)."""
    unknown = running_mean is not None and running_var is not None and not known(running_mean, running_var)
    if x.numel() == 0 or unknown:
        return reference.forward(x, gamma, beta, running_mean, running_var, batches, of_batch, eps, momentum)
    kernels, threads = cpu_kernels()
    format, (images, channels, *_) = memory_format(x), x.shape
    x, row = dense(x, format), 8 * channels
    space = channel_space(x, format)
    y = torch.empty(images, channels, dtype=x.dtype)
    tables = torch.empty(2, channels, dtype=torch.float64)
    active = torch.empty(2, images, channels, dtype=torch.float64)
    # Partial sums, statistics of the batch, and tables.
    held, scratch = memory.workspace(2 * row * groups(space) * of_batch, 2 * row * of_batch, 3 * row)
    values, mean, wide_gamma, wide_beta = x.numel() // channels, address(tables), wide(gamma), wide(beta)
    tensors = x, running_mean, running_var, batches, wide_gamma, wide_beta
    kernels.norm_relu_mean_forward(
        DTYPE_CODES[x.dtype], images, *space,
        [*(address(t) for t in tensors), *scratch[:2], mean, mean + row, address(active), scratch[2], address(y)],
        of_batch, 0 if running_mean is None else DTYPE_CODES[running_mean.dtype], eps, momentum,
        values / max(1, values - 1), threads,
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
    width = accumulation_dtype(x.dtype).itemsize * channels
    # Sums, and tables of what the gradients are.
    held, scratch = memory.workspace(2 * row, (5 + images) * width * need_x)
    grad_x = memory.empty(x.shape, x, format) if need_x else None
    affine = [
        torch.empty(channels, dtype=torch.float64) if need_affine and t is not None else None for t in (gamma, beta)
    ]
    wide_gamma, wide_beta = wide(gamma), wide(beta)
    tensors = x, grad, wide_gamma, wide_beta
    kernels.norm_relu_mean_backward(
        DTYPE_CODES[x.dtype], images, *channel_space(x, format),
        [*(address(t) for t in tensors), mean, mean + row, address(active), *scratch,
         *(address(t) for t in (grad_x, *affine))],
        of_batch, threads,
    )  # fmt: skip
    del held
    of_gamma, of_beta = (
        x.new_empty(0) if t is None or like is None else t.to(like.dtype)
        for t, like in zip(affine, (gamma, beta), strict=True)
    )
    return x.new_empty(0) if grad_x is None else grad_x, of_gamma, of_beta
