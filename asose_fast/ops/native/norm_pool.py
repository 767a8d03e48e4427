"""`norm_pool` on the compiled kernels (csrc/norm_pool.h)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from asose_fast.ops.layout import dense, memory_format
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels, memory
from asose_fast.ops.native.channels import channel_space, groups, wide
from asose_fast.ops.native.norm_tables import known
from asose_fast.ops.reference import norm_pool as reference

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(
    z: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    of_batch: bool,
    eps: float,
    momentum: float,
    pool: int,
) -> tuple[Tensor, Tensor]:
    """y, and mean and rstd that the norm normalises by, (2, C) float64."""
    if running_mean is not None and running_var is not None and not known(running_mean, running_var):
        return reference.forward(z, gamma, beta, running_mean, running_var, batches, of_batch, eps, momentum, pool)
    kernels, threads = cpu_kernels()
    wanted, channels = memory_format(z), z.shape[1]
    format = _format(wanted, pool)
    z = dense(z, format)
    y, space = memory.empty(reference.out_shape(z, pool), z, format), channel_space(z, format)
    tables = torch.empty(2, channels, dtype=torch.float64)
    row, mean = 8 * channels, address(tables)
    # Partial sums, statistics of the batch, and tables of the kernel.
    held, scratch = memory.workspace(2 * row * groups(space) * of_batch, 2 * row * of_batch, 3 * row)
    values, wide_gamma, wide_beta = z.numel() // channels, wide(gamma), wide(beta)
    tensors = z, running_mean, running_var, batches, wide_gamma, wide_beta
    kernels.norm_pool_forward(
        DTYPE_CODES[z.dtype], *space, *_pooling(z, pool),
        [*(address(t) for t in tensors), *scratch[:2], mean, mean + row, scratch[2], address(y)],
        of_batch, 0 if running_mean is None else DTYPE_CODES[running_mean.dtype], eps, momentum,
        values / max(1, values - 1), threads,
    )  # fmt: skip
    del held
    return dense(y, wanted), tables


def backward(
    grad: Tensor,
    z: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    tables: Tensor,
    of_batch: bool,
    pool: int,
    need_z: bool,
    need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients (`asose_fast.ops.reference.norm_pool.backward`)."""
    kernels, threads = cpu_kernels()
    wanted, channels = memory_format(z), z.shape[1]
    format = _format(wanted, pool)
    grad, z, tables = dense(grad, format), dense(z, format), tables.contiguous()
    space, pooling = channel_space(z, format), _pooling(z, pool)
    need_sums = need_affine or (of_batch and need_z)
    row, mean = 8 * channels, address(tables)
    sums = torch.empty(2, channels, dtype=torch.float64) if need_sums else None
    # Partial sums, and tables of what the gradient of z is.
    held, scratch = memory.workspace(2 * row * _sums(space, pooling) * need_sums, 7 * row)
    grad_z = memory.empty(z.shape, z, format) if need_z else None
    wide_gamma, wide_beta = wide(gamma), wide(beta)
    tensors = z, grad, wide_gamma, wide_beta
    kernels.norm_pool_backward(
        DTYPE_CODES[z.dtype], *space, *pooling,
        [*(address(t) for t in tensors), mean, mean + row, scratch[0], address(sums), scratch[1], address(grad_z)],
        of_batch, threads,
    )  # fmt: skip
    del held
    of_beta, of_gamma = (
        z.new_empty(0) if like is None or sums is None or not need_affine else sums[i].to(like.dtype, copy=True)
        for i, like in enumerate((beta, gamma))
    )
    return z.new_empty(0) if grad_z is None else dense(grad_z, wanted), of_gamma, of_beta


def _format(wanted: torch.memory_format, pool: int) -> torch.memory_format:
    """Windows are pooled in channels_last alone."""
    return wanted if pool == 1 else torch.channels_last


def _pooling(z: Tensor, pool: int) -> tuple[int, int]:
    return (0, 0) if pool == 1 else (z.shape[2], z.shape[3])


@functools.lru_cache(maxsize=1024)
def _sums(space: tuple[int, int, int], pooling: tuple[int, int]) -> int:
    """The number of partial sums backward."""
    return int(cpu_kernels()[0].norm_pool_groups(*space, *pooling))
