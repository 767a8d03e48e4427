"""A batch norm, and the 2x2 max pooling after it where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.autograd import differentiable, on_saved, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_channels, check_images, check_integer, check_like
from asose_fast.ops.layout import memory_format
from asose_fast.ops.library import define
from asose_fast.ops.norms import (
    ONE_NORM,
    OneNorm,
    check_count,
    check_norm,
    check_tables,
    fake_affine_gradients,
    held,
    measured,
    uses_batch,
)
from asose_fast.ops.reference.norm_pool import out_shape, reference

registry.register(
    "norm_pool",
    {"reference": "asose_fast.ops.reference.norm_pool", "cpu": "asose_fast.ops.native.norm_pool"},
    small=True,
)


def norm_pool(z: Tensor, norm: nn.BatchNorm2d, pool: int = 1, *, checked: bool = False) -> Tensor:
    """Normalises over the batch and pools, forward and backward in two passes over memory each.

        y = BN(z)                                      pool = 1
        y = max of BN(z) over windows of 2x2           pool = 2; the last ones are cut short where a side is odd
        dL/dbeta = S0        dL/dgamma = S1
        dL/dz = gamma rstd (g - (S0 + xhat S1) / (N H W))    g alone in brackets where the running statistics are used

    with xhat = rstd (z - mean), g = dL/dBN(z), S0 = sum g and S1 = sum g xhat. As in PyTorch, g is dL/dy at the first
    maximum of a window in row-major order and else 0, and a NaN makes its windows NaN. The maxima are found again in
    backward, so that nothing but z is kept. The norm does what its module would, running statistics included.

    Args:
        z: (N, C, H, W) float16, bfloat16, float32 or float64. With pool = 2 other layouts than channels_last are
            converted, and the result is converted back.
        norm: for C channels.
        pool: 1 or 2.
        checked: whether the caller has seen to it that the norm is for z.

    Returns:
        y, (N, C, ceil(H / pool), ceil(W / pool)), in the dtype and memory format of z.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or fewer than two values a channel
            where the norm needs the statistics of the batch.
    """
    if not checked:
        _check_z("norm_pool", z, pool)
        check_norm("norm_pool: norm", norm, z, "z has")
    if transformed():
        return reference(z, norm, pool)
    of_batch = uses_batch(norm)
    check_count([of_batch], z.shape)
    y: Tensor = _NormPool.apply(norm, of_batch, pool, z, held(norm, "weight"), held(norm, "bias"))
    return y


def check_pool(where: str, pool: int) -> None:
    """Raises TypeError or ValueError for what is no side of a window."""
    check_integer(f"{where}: pool", pool)
    if pool not in (1, 2):
        raise ValueError(f"{where}: pool must be 1 or 2, got {pool}")


def _check_z(where: str, z: Tensor, pool: int) -> None:
    check_pool(where, pool)
    if pool == 1:
        check_channels(f"{where}: z", z)
    else:
        check_images(f"{where}: z", z)


def _plain(ctx: Any) -> tuple[Callable[..., Tensor], Sequence[Any]]:
    z, gamma, beta, found = ctx.saved_tensors

    def plain(_: object, of_batch: bool, pool: int, z: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        rows = [None if t is None else t[None] for t in (gamma, beta)]
        (norm,) = measured(found[:1], found[1:], rows[0], rows[1], [of_batch])
        return reference(z, norm, pool)

    return plain, (None, ctx.of_batch, ctx.pool, z, gamma, beta)


class _NormPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        norm: nn.BatchNorm2d,
        of_batch: bool,
        pool: int,
        z: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
    ) -> Tensor:
        ctx.of_batch, ctx.pool = of_batch, pool
        found = norm_pool_fwd.unchecked(z, *OneNorm.of(norm, of_batch, gamma, beta), pool)
        y: Tensor = found[0]
        save(ctx, z, gamma, beta, found[1])
        return y

    @staticmethod
    @twice_differentiable(differentiable(_plain))
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *_, need_z, need_gamma, need_beta = ctx.needs_input_grad
        found = on_saved(ctx, norm_pool_bwd)(
            grad, *ctx.saved_tensors, ctx.of_batch, ctx.pool, need_z, need_gamma or need_beta
        )
        needs = need_z, need_gamma, need_beta
        return None, None, None, *(g if need else None for g, need in zip(found, needs, strict=True))


def _fwd(z: Tensor, *rest: Any) -> Any:
    *norm, pool = rest
    return registry.select("norm_pool", z).forward(z, OneNorm(*norm), pool)


def _check_fwd(z: Tensor, *rest: Any) -> None:
    *norm, pool = rest
    _check_z("norm_pool_fwd", z, pool)
    OneNorm(*norm).check("norm_pool_fwd", z.shape)


def _fwd_fake(z: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    y = z.new_empty(out_shape(z, rest[-1])).contiguous(memory_format=memory_format(z))
    return y, z.new_empty(2, z.shape[1], dtype=torch.float64)


class _Backward(NamedTuple):
    """The arguments of the registered operator."""

    grad: Tensor
    z: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    tables: Tensor
    of_batch: bool
    pool: int
    need_z: bool
    need_affine: bool


def _bwd(*args: Any) -> Any:
    return registry.select("norm_pool", args[0]).backward(*args)


def _check_bwd(*args: Any) -> None:
    where, call = "norm_pool_bwd", _Backward(*args)
    _check_z(where, call.z, call.pool)
    check_tables(where, call.z.shape, gamma=call.gamma, beta=call.beta)
    check_like(f"{where}: grad", call.grad, out_shape(call.z, call.pool), call.z.dtype)
    check_like(f"{where}: tables", call.tables, (2, call.z.shape[1]), torch.float64)


def _bwd_fake(*args: Any) -> tuple[Tensor, ...]:
    call = _Backward(*args)

    return (
        torch.empty_like(call.z, memory_format=memory_format(call.z)) if call.need_z else call.z.new_empty(0),
        *fake_affine_gradients(call.grad, call.gamma, call.beta, call.need_affine),
    )


norm_pool_fwd = define(
    f"norm_pool_fwd(Tensor z, {ONE_NORM}, int pool) -> (Tensor, Tensor)",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
norm_pool_bwd = define(
    "norm_pool_bwd(Tensor grad, Tensor z, Tensor? gamma, Tensor? beta, Tensor tables, bool of_batch, int pool, "
    "bool need_z, bool need_affine) -> (Tensor, Tensor, Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
