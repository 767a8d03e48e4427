"""`norm_pool` on the compiled kernels (csrc/norm_pool.h)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from asose_fast.ops.layout import dense, memory_format
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels, memory
from asose_fast.ops.native.channels import channel_space, groups
from asose_fast.ops.native.one_norm import Gradients, forward_arguments, readable
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import norm_pool as reference

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(z: Tensor, norm: OneNorm, pool: int) -> tuple[Tensor, Tensor]:
    """y, and mean and rstd that the norm normalises by, (2, C) float64."""
    if (given := readable(norm)) is None:
        return reference.forward(z, norm, pool)
    kernels, threads = cpu_kernels()
    wanted, channels = memory_format(z), z.shape[1]
    format = _format(wanted, pool)
    z = dense(z, format)
    y, space = memory.empty(reference.out_shape(z, pool), z, format), channel_space(z, format)
    tables = torch.empty(2, channels, dtype=torch.float64)
    row, mean = 8 * channels, address(tables)
    # Partial sums, statistics of the batch, and tables of the kernel.
    held, scratch = memory.workspace(2 * row * groups(space) * norm.of_batch, 2 * row * norm.of_batch, 3 * row)
    kernels.norm_pool_forward(
        DTYPE_CODES[z.dtype], *space, *_pooling(z, pool), *forward_arguments(given),
        [address(z), *scratch[:2], mean, mean + row, scratch[2], address(y)], threads,
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
    # Partial sums, sums, and tables of what the gradient of z is.
    held, scratch = memory.workspace(2 * row * _sums(space, pooling) * need_sums, 2 * row * need_sums, 7 * row)
    grad_z, affine = memory.empty(z.shape, z, format) if need_z else None, Gradients(gamma, beta, need_affine)
    kernels.norm_pool_backward(
        DTYPE_CODES[z.dtype], *space, *pooling, *affine.arguments(), of_batch,
        [address(z), address(grad), mean, mean + row, *scratch, address(grad_z)], threads,
    )  # fmt: skip
    del held
    return z.new_empty(0) if grad_z is None else dense(grad_z, wanted), *affine.found(z)


def _format(wanted: torch.memory_format, pool: int) -> torch.memory_format:
    """Windows are pooled in channels_last alone."""
    return wanted if pool == 1 else torch.channels_last


def _pooling(z: Tensor, pool: int) -> tuple[int, int]:
    return (0, 0) if pool == 1 else (z.shape[2], z.shape[3])


@functools.lru_cache(maxsize=1024)
def _sums(space: tuple[int, int, int], pooling: tuple[int, int]) -> int:
    """The number of partial sums backward."""
    return int(cpu_kernels()[0].norm_pool_groups(*space, *pooling))
