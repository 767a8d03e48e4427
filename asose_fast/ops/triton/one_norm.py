# mypy: disable-error-code="import-untyped, untyped-decorator"
"""What one norm normalises by, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.norms import OneNorm
from asose_fast.ops.triton.running import average, wide
from asose_fast.ops.triton.tiles import launched

_CHANNELS = 64
"""Of a program."""


@triton.jit
def affine_of(
    mean: tl.tensor,
    rstd: tl.tensor,
    gamma: tl.tensor,  # or None, like beta: known when compiling
    beta: tl.tensor,
    channel: tl.tensor,
    there: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    """The scale and the shift of a norm, in float64."""
    scale = rstd
    if gamma is not None:
        scale *= tl.load(gamma + channel, mask=there, other=0.0).to(tl.float64)
    shift = -mean * scale
    if beta is not None:
        shift += tl.load(beta + channel, mask=there, other=0.0).to(tl.float64)
    return scale, shift


@triton.jit
def _store_tables(
    tables: tl.tensor,
    affine: tl.tensor,
    gamma: tl.tensor,
    beta: tl.tensor,
    mean: tl.tensor,
    var: tl.tensor,
    eps: tl.float64,
    channels: tl.int64,
    channel: tl.tensor,
    there: tl.tensor,
) -> None:
    rstd = 1 / tl.sqrt(var + eps)
    tl.store(tables + channel, mean, mask=there)
    tl.store(tables + channels + channel, rstd, mask=there)
    if affine is not None:
        scale, shift = affine_of(mean, rstd, gamma, beta, channel, there)
        tl.store(affine + channel, scale.to(affine.dtype.element_ty), mask=there)
        tl.store(affine + channels + channel, shift.to(affine.dtype.element_ty), mask=there)


@triton.jit
def store_norm(
    norm: tl.tuple,
    mean: tl.tensor,
    var: tl.tensor,
    rows: tl.tensor,
    eps: tl.float64,
    momentum: tl.float64,
    channels: tl.int64,
    channel: tl.tensor,
    there: tl.tensor,
    EVEN: tl.constexpr,
    TYPE: tl.constexpr,
) -> None:
    """The tables of a norm of these statistics of a batch, by which its running ones are updated.

    `norm` has the running mean and variance, the count of batches or None where they are not updated, gamma or None,
    beta or None, the tables to be written, (2, C), and the affine map or None. EVEN says that all batches have the same
    share; TYPE is that of statistics in plain PyTorch.
    """
    running_mean, running_var, batches, gamma, beta, tables, affine = norm
    _store_tables(tables, affine, gamma, beta, mean, var, eps, channels, channel, there)
    if batches is not None:
        share = tl.zeros([], tl.float64) + momentum
        if EVEN:
            # The count of before this batch: it is counted later, by a kernel that comes after every channel.
            share = 1 / (tl.load(batches) + 1).to(tl.float64)
        values = tl.zeros([], tl.float64) + rows
        average(running_mean + channel, mean.to(TYPE), share, there)
        average(running_var + channel, (var * (values / tl.maximum(values - 1, 1))).to(TYPE), share, there)


@launched
@triton.jit
def _one_norm_kernel(
    running_mean: tl.tensor,
    running_var: tl.tensor,
    gamma: tl.tensor,  # or None, like beta and affine: known when compiling
    beta: tl.tensor,
    tables: tl.tensor,
    affine: tl.tensor,
    channels: tl.int64,
    eps: tl.float64,
    BLOCK_C: tl.constexpr,
) -> None:
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < channels
    mean, var = wide(running_mean + channel, there), wide(running_var + channel, there)
    _store_tables(tables, affine, gamma, beta, mean, var, eps, channels, channel, there)


@triton.jit
def of_norm(
    tables: tl.tensor, gamma: tl.tensor, channels: tl.int64, channel: tl.tensor, there: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """The mean of a norm, 1 / its standard deviation, and its scale, in float64."""
    mean = tl.load(tables + channel, mask=there, other=0.0)
    rstd = tl.load(tables + channels + channel, mask=there, other=0.0)
    scale = rstd
    if gamma is not None:
        scale *= tl.load(gamma + channel, mask=there, other=0.0).to(tl.float64)
    return mean, rstd, scale


def from_running(norm: OneNorm, tables: Tensor, affine: Tensor | None = None) -> None:
    """Writes the tables (2, C) of a norm that uses its running statistics and, where it is there, its affine map."""
    channels = tables.shape[1]
    _one_norm_kernel[(triton.cdiv(channels, _CHANNELS),)](
        norm.running_mean, norm.running_var, row_of(norm.gamma), row_of(norm.beta), tables, affine, channels, norm.eps,
        _CHANNELS,
    )  # fmt: skip


def row_of(table: Tensor | None) -> Tensor | None:
    """A table of channels as kernels read it."""
    return None if table is None else table.contiguous()
