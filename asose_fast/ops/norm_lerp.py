"""The last batch norm of a lone branch, blended with a shortcut by a gain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.autograd import differentiable, on_saved, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_channels, check_like, check_tensor
from asose_fast.ops.dtypes import FLOATS
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
    check_blend("norm_lerp", z.shape, z.dtype, z.device, shortcut, gain)
    if transformed():
        return reference(z, norm, shortcut, gain)
    of_batch = uses_batch(norm)
    check_count([of_batch], z.shape)
    y: Tensor = _NormLerp.apply(
        norm,
        of_batch,
        z,
        shortcut,
        gain,
        held(norm, "weight"),
        held(norm, "bias"),
    )
    return y


def check_blend(
    where: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device, shortcut: Tensor, gain: Tensor
) -> None:
    """Raises TypeError or ValueError unless a tensor of that shape, dtype and device can be blended with a shortcut."""
    _check_shortcut(where, shape, dtype, device, shortcut)
    check_tensor(f"{where}: gain", gain)
    if gain.dim() or not gain.is_floating_point() or gain.device != device:
        raise ValueError(f"{where}: gain must be a floating scalar on {device}, got {gain.dtype} {gain.device}")


def _check_shortcut(
    where: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device, shortcut: Tensor
) -> None:
    check_tensor(f"{where}: shortcut", shortcut)
    check_like(f"{where}: shortcut", shortcut, tuple(shape), dtype)
    if shortcut.device != device:
        raise ValueError(f"{where}: shortcut is on {shortcut.device}, z on {device}")


def _plain(ctx: Any) -> tuple[Callable[..., Tensor], Sequence[Any]]:
    z, shortcut, gain, gamma, beta, found = ctx.saved_tensors

    def plain(
        _: object, of_batch: bool, z: Tensor, shortcut: Tensor, gain: Tensor, gamma: Tensor | None, beta: Tensor | None
    ) -> Tensor:
        rows = [None if t is None else t[None] for t in (gamma, beta)]
        (norm,) = measured(found[:1], found[1:], rows[0], rows[1], [of_batch])
        return reference(z, norm, shortcut, gain)

    return plain, (None, ctx.of_batch, z, shortcut, gain, gamma, beta)


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
        found = norm_lerp_fwd.unchecked(z, shortcut, gain, *OneNorm.of(norm, of_batch, gamma, beta))
        y: Tensor = found[0]
        save(ctx, z, shortcut, gain, gamma, beta, found[1])
        return y

    @staticmethod
    @twice_differentiable(differentiable(_plain))
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, _, *needs = ctx.needs_input_grad
        need_gamma, need_beta = needs[3:]
        found = on_saved(ctx, norm_lerp_bwd)(
            grad, *ctx.saved_tensors, ctx.of_batch, *needs[:3], need_gamma or need_beta
        )
        return None, None, *(g if need else None for g, need in zip(found, needs, strict=True))


def _fwd(z: Tensor, shortcut: Tensor, gain: Tensor, *norm: Any) -> Any:
    return registry.select("norm_lerp", z).forward(z, shortcut, gain, OneNorm(*norm))


def _check_tensors(where: str, z: Tensor, shortcut: Tensor, gain: Tensor) -> None:
    check_channels(f"{where}: z", z)
    _check_shortcut(where, z.shape, z.dtype, z.device, shortcut)
    check_like(f"{where}: gain", gain, (), *FLOATS)


def _check_fwd(z: Tensor, shortcut: Tensor, gain: Tensor, *norm: Any) -> None:
    _check_tensors("norm_lerp_fwd", z, shortcut, gain)
    OneNorm(*norm).check("norm_lerp_fwd", z.shape)


def _fwd_fake(z: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
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
    _check_tensors(where, call.z, call.shortcut, call.gain)
    check_tables(where, call.z.shape, gamma=call.gamma, beta=call.beta)
    check_like(f"{where}: grad", call.grad, call.z.shape, call.z.dtype)
    check_like(f"{where}: tables", call.tables, (2, call.z.shape[1]), torch.float64)


def _bwd_fake(*args: Any) -> tuple[Tensor, ...]:
    call = _Backward(*args)
    format = memory_format(call.z)

    return (
        torch.empty_like(call.z, memory_format=format) if call.need_z else call.z.new_empty(0),
        torch.empty_like(call.z, memory_format=format) if call.need_shortcut else call.z.new_empty(0),
        torch.empty_like(call.gain) if call.need_gain else call.gain.new_empty(0),
        *fake_affine_gradients(call.grad, call.gamma, call.beta, call.need_affine),
    )


norm_lerp_fwd = define(
    f"norm_lerp_fwd(Tensor z, Tensor shortcut, Tensor gain, {ONE_NORM}) -> (Tensor, Tensor)",
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
