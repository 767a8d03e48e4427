"""The last batch norm of a lone branch, blended with a shortcut by a gain."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.autograd import gradients, save, transformed, twice_differentiable
from asose_fast.ops.batch_statistics import check_channels
from asose_fast.ops.checks import check_like, check_tensor
from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import memory_format
from asose_fast.ops.library import define
from asose_fast.ops.norms import (
    check_count,
    check_norm,
    check_running,
    held,
    measured,
    running_statistics,
    uses_batch,
)
from asose_fast.ops.reference.norm_lerp import reference

registry.register(
    "norm_lerp",
    {
        "reference": "asose_fast.ops.reference.norm_lerp",
        "cpu": "asose_fast.ops.native.norm_lerp",
        "triton": "asose_fast.ops.triton.norm_lerp",
    },
    small=True,
)


def norm_lerp(z: Tensor, norm: nn.BatchNorm2d, shortcut: Tensor, gain: Tensor) -> Tensor:
    """Blends a batch-normalised tensor with a shortcut, forward and backward in two passes over memory each.

        y = s + g (BN(z) - s)
        dL/dg = sum_c gamma S1 + beta S0 - <dL/dy, s>        dL/ds = (1 - g) dL/dy        dL/dz as in `mixed_norm_sum`

    with S0 = sum dL/dy and S1 = sum dL/dy xhat. The norm does what its module would, running statistics included. Where
    g is exactly 0, y and dL/dz do not depend on z.

    Args:
        z: (N, C, H, W) float16, bfloat16, float32 or float64; its memory format is that of the computation.
        norm: for C channels.
        shortcut: s, like z.
        gain: scalar g, in any floating dtype.

    Returns:
        y in the shape, dtype and memory format of z.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or fewer than two values a channel
            where the norm needs the statistics of the batch.
    """
    check_tensor("norm_lerp: z", z)
    check_channels("norm_lerp: z", z)
    check_norm("norm_lerp: norm", norm, z, "z has")
    _check_operands("norm_lerp", z, shortcut)
    check_tensor("norm_lerp: gain", gain)
    if gain.dim() or not gain.is_floating_point() or gain.device != z.device:
        raise ValueError(f"norm_lerp: gain must be a floating scalar on {z.device}, got {gain.dtype} {gain.device}")
    if transformed():
        return reference(z, norm, shortcut, gain)
    of_batch = uses_batch(norm)
    check_count([of_batch], z.shape)
    y: Tensor = _NormLerp.apply(
        norm, of_batch, z, shortcut, gain.to(accumulation_dtype(z.dtype)), held(norm, "weight"), held(norm, "bias")
    )
    return y


def _check_operands(where: str, z: Tensor, shortcut: Tensor) -> None:
    check_tensor(f"{where}: shortcut", shortcut)
    check_like(f"{where}: shortcut", shortcut, z.shape, z.dtype)
    if shortcut.device != z.device:
        raise ValueError(f"{where}: shortcut is on {shortcut.device}, z on {z.device}")


def _differentiable_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    z, shortcut, gain, gamma, beta, found = ctx.saved_tensors

    def plain(
        _: object, of_batch: bool, z: Tensor, shortcut: Tensor, gain: Tensor, gamma: Tensor | None, beta: Tensor | None
    ) -> Tensor:
        rows = [None if t is None else t[None] for t in (gamma, beta)]
        (norm,) = measured(found[:1], found[1:], rows[0], rows[1], [of_batch])
        return reference(z, norm, shortcut, gain)

    return gradients(ctx, plain, (None, ctx.of_batch, z, shortcut, gain, gamma, beta), [grad])


class _NormLerp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        norm: nn.BatchNorm2d,
        of_batch: bool,
        z: Tensor,
        shortcut: Tensor,
        gain: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
    ) -> Tensor:
        ctx.of_batch = of_batch
        *running, momentum = running_statistics(norm)
        found = norm_lerp_fwd.unchecked(z, shortcut, gain, gamma, beta, *running, of_batch, norm.eps, momentum)
        y: Tensor = found[0]
        save(ctx, z, shortcut, gain, gamma, beta, found[1])
        return y

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, _, *needs = ctx.needs_input_grad
        need_gamma, need_beta = needs[3:]
        found = norm_lerp_bwd(grad, *ctx.saved_tensors, ctx.of_batch, *needs[:3], need_gamma or need_beta)
        return None, None, *(g if need else None for g, need in zip(found, needs, strict=True))


class _Forward(NamedTuple):
    """The arguments of the registered operator."""

    z: Tensor
    shortcut: Tensor
    gain: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    batches: Tensor | None
    """How many batches the norm has seen; None where it is not updated."""
    of_batch: bool
    eps: float
    momentum: float


def _fwd(*args: Any) -> Any:
    return registry.select("norm_lerp", args[0]).forward(*args)


def _check_tables(where: str, z: Tensor, shortcut: Tensor, gain: Tensor, **tables: Tensor | None) -> None:
    check_channels(f"{where}: z", z)
    _check_operands(where, z, shortcut)
    check_like(f"{where}: gain", gain, (), accumulation_dtype(z.dtype))
    for name, table in tables.items():
        check_like(f"{where}: {name}", table, z.shape[1:2], *FLOATS)


def _check_fwd(*args: Any) -> None:
    where, call = "norm_lerp_fwd", _Forward(*args)
    _check_tables(where, call.z, call.shortcut, call.gain, **dict(list(call._asdict().items())[3:7]))
    check_running(where, call.running_mean, call.running_var, call.batches, call.of_batch)


def _fwd_fake(*args: Any) -> tuple[Tensor, Tensor]:
    z = args[0]
    return torch.empty_like(z, memory_format=memory_format(z)), z.new_empty(2, z.shape[1], dtype=torch.float64)


class _Backward(NamedTuple):
    """The arguments of the registered operator."""

    grad: Tensor
    z: Tensor
    shortcut: Tensor
    gain: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    tables: Tensor
    of_batch: bool
    need_z: bool
    need_shortcut: bool
    need_gain: bool
    need_affine: bool


def _bwd(*args: Any) -> Any:
    return registry.select("norm_lerp", args[0]).backward(*args)


def _check_bwd(*args: Any) -> None:
    where, call = "norm_lerp_bwd", _Backward(*args)
    _check_tables(where, call.z, call.shortcut, call.gain, gamma=call.gamma, beta=call.beta)
    check_like(f"{where}: grad", call.grad, call.z.shape, call.z.dtype)
    check_like(f"{where}: tables", call.tables, (2, call.z.shape[1]), torch.float64)


def _bwd_fake(*args: Any) -> tuple[Tensor, ...]:
    call = _Backward(*args)
    format = memory_format(call.z)

    def like(table: Tensor | None) -> Tensor:
        return call.grad.new_empty(0) if table is None or not call.need_affine else torch.empty_like(table)

    return (
        torch.empty_like(call.z, memory_format=format) if call.need_z else call.z.new_empty(0),
        torch.empty_like(call.z, memory_format=format) if call.need_shortcut else call.z.new_empty(0),
        torch.empty_like(call.gain) if call.need_gain else call.gain.new_empty(0),
        like(call.gamma),
        like(call.beta),
    )


norm_lerp_fwd = define(
    "norm_lerp_fwd(Tensor z, Tensor shortcut, Tensor gain, Tensor? gamma, Tensor? beta, Tensor(a!)? running_mean, "
    "Tensor(b!)? running_var, Tensor(c!)? batches, bool of_batch, float eps, float momentum) "
    "-> (Tensor, Tensor)",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
norm_lerp_bwd = define(
    "norm_lerp_bwd(Tensor grad, Tensor z, Tensor shortcut, Tensor gain, Tensor? gamma, Tensor? beta, Tensor tables, "
    "bool of_batch, bool need_z, bool need_shortcut, bool need_gain, bool need_affine) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
