"""`mixed_norm_sum` on the compiled kernels (csrc/mixed_norm_sum.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import memory_format
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels, memory
from asose_fast.ops.native.channels import channel_space, wide

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(
    xs: list[Tensor], weights: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, rstd: Tensor
) -> Tensor:
    """y = sum_k w_k BN_k(z_k) + sum_j v_j x_j."""
    kernels, threads = cpu_kernels()
    format, acc = memory_format(xs[0]), accumulation_dtype(xs[0].dtype)
    dense = [x.contiguous(memory_format=format) for x in xs]
    y = memory.empty(xs[0].shape, xs[0], format)
    weights, norms = weights.contiguous(), [wide(t) for t in (gamma, beta, mean, rstd)]
    tables = torch.empty(2 * len(xs) + 1, mean.shape[1], dtype=acc)
    kernels.mixed_norm_sum_forward(
        DTYPE_CODES[y.dtype], len(xs), *channel_space(y, format), [address(t) for t in (*dense, y)],
        address(weights), len(mean), *map(address, norms), address(tables), threads,
    )  # fmt: skip
    return y


def backward(
    grad: Tensor,
    xs: list[Tensor],
    weights: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    batch: list[bool],
    read: list[bool],
    need_x: list[bool],
    need_weights: bool,
    need_sums: bool,
    channels_last: bool,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """The gradients, the sums and the tables (`asose_fast.ops.reference.mixed_norm_sum.backward`)."""
    kernels, threads = cpu_kernels()
    format = torch.channels_last if channels_last else torch.contiguous_format
    grad = grad.contiguous(memory_format=format)
    saved = iter([x.contiguous(memory_format=format) for x in xs])
    inputs = [next(saved) if is_read else None for is_read in read]
    space, channels = channel_space(grad, format), mean.shape[1]
    weights, norms = weights.contiguous(), [wide(t) for t in (gamma, beta, mean, rstd)]
    grad_weights = torch.empty_like(weights) if need_weights else weights.new_empty(0)
    sums = torch.empty(1 + len(read) if need_sums else 0, channels, dtype=torch.float64)
    partials = torch.empty(kernels.lane_groups(*space), *sums.shape, dtype=torch.float64) if need_sums else None
    tables = torch.empty(len(read), 4, channels, dtype=accumulation_dtype(grad.dtype))
    grad_xs = [memory.empty(grad.shape, grad, format) if need else None for need in need_x]
    kernels.mixed_norm_sum_backward(
        DTYPE_CODES[grad.dtype], len(read), *space, [address(t) for t in (*inputs, grad, *grad_xs)],
        address(weights), *map(address, norms), batch,
        address(partials), address(sums if need_sums else None), address(grad_weights), address(tables), threads,
    )  # fmt: skip
    return [t for t in grad_xs if t is not None], grad_weights, sums, tables
