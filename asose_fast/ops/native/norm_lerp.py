"""`norm_lerp` on the compiled kernels (csrc/norm_lerp.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense, memory_format
from asose_fast.ops.native import DTYPE_CODES, address, addresses, cpu_kernels, memory
from asose_fast.ops.native.channels import channel_space, groups
from asose_fast.ops.native.one_norm import Gradients, forward_arguments, readable
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import norm_lerp as reference

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(z: Tensor, shortcut: Tensor, gain: Tensor, norm: OneNorm) -> tuple[Tensor, Tensor]:
    """y, and mean and rstd that the norm normalises by, (2, C) float64."""
    if (given := readable(norm)) is None:
        return reference.forward(z, shortcut, gain, norm)
    kernels, threads = cpu_kernels()
    format, channels = memory_format(z), z.shape[1]
    z, shortcut, gain = dense(z, format), dense(shortcut, format), gain.to(accumulation_dtype(z.dtype))
    y, space = memory.empty(z.shape, z, format), channel_space(z, format)
    tables = torch.empty(2, channels, dtype=torch.float64)
    row, mean = 8 * channels, address(tables)
    # Partial sums, statistics of the batch, and tables of the sum.
    held, scratch = memory.workspace(2 * row * groups(space), 2 * row, 5 * row)
    kernels.norm_lerp_forward(
        DTYPE_CODES[z.dtype], *space, *forward_arguments(given),
        [*addresses((z, shortcut, gain)), *scratch[:2], mean, mean + row, scratch[2], address(y)], threads,
    )  # fmt: skip
    del held
    return y, tables


def backward(
    grad: Tensor,
    z: Tensor,
    shortcut: Tensor,
    gain: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    tables: Tensor,
    of_batch: bool,
    need_z: bool,
    need_shortcut: bool,
    need_gain: bool,
    need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients (`asose_fast.ops.reference.norm_lerp.backward`)."""
    kernels, threads = cpu_kernels()
    format, channels = memory_format(z), z.shape[1]
    grad, z, shortcut, tables = dense(grad, format), dense(z, format), dense(shortcut, format), tables.contiguous()
    space = channel_space(z, format)
    need_sums = need_gain or need_affine or (of_batch and need_z)
    row, mean = 8 * channels, address(tables)
    # Partial sums, sums, and tables of what the gradients are.
    held, scratch = memory.workspace(3 * row * groups(space) * need_sums, 3 * row * need_sums, 8 * row)
    grad_z, grad_shortcut = (memory.empty(z.shape, z, format) if need else None for need in (need_z, need_shortcut))
    wide = gain.to(accumulation_dtype(z.dtype))
    grad_gain = torch.empty_like(wide) if need_gain else None
    affine = Gradients(gamma, beta, need_affine)
    tensors = z if need_sums else None, shortcut if need_gain else None, grad, wide
    kernels.norm_lerp_backward(
        DTYPE_CODES[z.dtype], *space, *affine.arguments(), of_batch,
        [*addresses(tensors), mean, mean + row, *scratch, *addresses((grad_z, grad_shortcut, grad_gain))], threads,
    )  # fmt: skip
    del held
    of_z, of_shortcut = (z.new_empty(0) if t is None else t for t in (grad_z, grad_shortcut))
    return of_z, of_shortcut, gain.new_empty(0) if grad_gain is None else grad_gain.to(gain.dtype), *affine.found(z)
