"""A dense convolution, its batch norm and what follows that, as one node of autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.autocast import computing_dtype, without_autocast
from asose_fast.ops.autograd import differentiable, on_saved, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_like
from asose_fast.ops.conv_norm_call import Backward, Forward
from asose_fast.ops.dense import Dense
from asose_fast.ops.dense_conv import CONV, check_convolution
from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.layout import empty_channels_last
from asose_fast.ops.library import define
from asose_fast.ops.norm_lerp import check_blend
from asose_fast.ops.norm_pool import check_pool
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
from asose_fast.ops.reference.conv_norm import reference
from asose_fast.ops.reference.norm_pool import pooled

registry.register(
    "conv_norm",
    {"reference": "asose_fast.ops.reference.conv_norm", "cpu": "asose_fast.ops.native.conv_norm"},
    small=True,
)


def conv_norm(
    x: Tensor,
    weight: Tensor,
    norm: nn.BatchNorm2d,
    *,
    stride: int | tuple[int, int] = 1,
    relu: bool = False,
    pool: int = 1,
    shortcut: Tensor | None = None,
    gain: Tensor | None = None,
    checked: bool = False,
) -> Tensor:
    """A dense convolution and its norm, then nothing, 2x2 max pooling or the blend with a shortcut.

        z = conv2d(relu(x), weight, stride, padding k // 2)        without `relu`, conv2d(x, ...)
        y = BN(z),        max of BN(z) over windows of 2x2,        or s + g (BN(z) - s)

    It computes what `dense_conv` and `norm_pool` or `norm_lerp` compute one after the other, with their kernels, and
    has half of their nodes. Where kernels serve all of that, it is one call of them a direction.

    Args:
        x: (N, C_in, H, W) float16, bfloat16, float32 or float64. Other layouts than channels_last are converted.
        weight: (C_out, C_in, k_h, k_w) with odd k_h and k_w, in any floating dtype.
        norm: for C_out channels.
        stride: 1 or more, for both axes or (down, across).
        relu: whether x is rectified first.
        pool: 1 or 2; 1 with a shortcut.
        shortcut: s, in the shape and dtype of z, with `gain`.
        gain: scalar g, in any floating dtype.
        checked: whether the caller has seen to it that all of them fit.

    Returns:
        y, channels_last, in the dtype of x; under autocast, for a float32 x, in that of autocast.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape, device or range, or fewer than two values a
            channel where the norm needs the statistics of the batch.
    """
    conv = Dense.of("conv_norm", stride, relu)
    if not checked:
        _check(x, weight, norm, conv, pool, shortcut, gain)
    x = x.to(computing_dtype(x))
    with without_autocast(x):
        if transformed():
            return reference(x, weight, norm, conv, pool, shortcut, gain)
        x = x.contiguous(memory_format=torch.channels_last)
        call = _Call(conv, norm, uses_batch(norm), pool)
        check_count([call.of_batch], torch.Size(conv.out_shape(x, weight)))
        y: Tensor = _ConvNorm.apply(call, x, weight, held(norm, "weight"), held(norm, "bias"), shortcut, gain)
        return y


def has_kernels(x: Tensor, weight: Tensor, conv: Dense) -> bool:
    """Whether something else than plain PyTorch serves such a call."""
    there = registry.has_kernels("conv_norm", x.device.type, computing_dtype(x))
    return there and registry.serves("conv_norm", "cpu", x, weight.shape, conv)


def _check(
    x: Tensor,
    weight: Tensor,
    norm: nn.BatchNorm2d,
    conv: Dense,
    pool: int,
    shortcut: Tensor | None,
    gain: Tensor | None,
) -> None:
    check_convolution("conv_norm", x, weight, conv)
    check_norm("conv_norm: norm", norm, weight.transpose(0, 1), "weight gives")
    check_pool("conv_norm", pool)
    _check_whole("conv_norm", pool, shortcut, gain)
    if shortcut is not None and gain is not None:
        check_blend("conv_norm", conv.out_shape(x, weight), computing_dtype(x), x.device, shortcut, gain)


def _check_whole(where: str, pool: int, shortcut: Tensor | None, gain: Tensor | None) -> None:
    if (shortcut is None) != (gain is None) or (gain is not None and pool != 1):
        raise ValueError(f"{where}: shortcut and gain must be given together, and without a pool")


class _Call(NamedTuple):
    """What the node computes, apart from its tensors."""

    conv: Dense
    norm: nn.BatchNorm2d
    of_batch: bool
    pool: int


def _plain(ctx: Any) -> tuple[Callable[..., Tensor], Sequence[Any]]:
    x, weight, _, shortcut, gain, gamma, beta, found = ctx.saved_tensors

    def plain(call: _Call, x: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
        gamma, beta, shortcut, gain = others
        rows = [None if t is None else t[None] for t in (gamma, beta)]
        (norm,) = measured(found[:1], found[1:], rows[0], rows[1], [call.of_batch])
        return reference(x, weight, norm, call.conv, call.pool, shortcut, gain)

    return plain, (ctx.call, x, weight, gamma, beta, shortcut, gain)


def _arguments(
    call: _Call, x: Tensor, weight: Tensor, gamma: Tensor | None, beta: Tensor | None, *blend: Tensor | None
) -> Forward:
    shortcut, gain = blend
    norm = OneNorm.of(call.norm, call.of_batch, gamma, beta)
    return Forward(x, weight, shortcut, gain, *norm, *call.conv, call.pool)


class _ConvNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        call: _Call,
        x: Tensor,
        weight: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        shortcut: Tensor | None,
        gain: Tensor | None,
    ) -> Tensor:
        y: Tensor
        y, z, tables = conv_norm_fwd.unchecked(*_arguments(call, x, weight, gamma, beta, shortcut, gain))
        ctx.call = call
        save(ctx, x, weight, z, shortcut, gain, gamma, beta, tables)
        return y

    @staticmethod
    @twice_differentiable(differentiable(_plain))
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        _, need_x, need_weight, need_gamma, need_beta, need_shortcut, need_gain = needs = ctx.needs_input_grad
        of_x, of_weight, of_shortcut, of_gain, *affine = on_saved(ctx, conv_norm_bwd)(
            grad, *ctx.saved_tensors, call.of_batch, *call.conv, call.pool,
            need_x, need_weight, need_shortcut, need_gain, need_gamma or need_beta,
        )  # fmt: skip
        found = None, of_x, of_weight, *affine, of_shortcut, of_gain
        return tuple([g if need else None for g, need in zip(found, needs, strict=True)])


def _fwd(*args: Any) -> Any:
    call = Forward(*args)
    return registry.select("conv_norm", call.x, call.weight.shape, call.conv).forward(call)


def _check_fwd(*args: Any) -> None:
    where, call = "conv_norm_fwd", Forward(*args)
    _check_tensors(where, call)
    call.norm.check(where, torch.Size(call.conv.out_shape(call.x, call.weight)))


def _check_tensors(where: str, call: Forward | Backward) -> None:
    check_convolution(where, call.x, call.weight, call.conv)
    check_like(f"{where}: weight", call.weight, tuple(call.weight.shape), *FLOATS)
    check_pool(where, call.pool)
    _check_whole(where, call.pool, call.shortcut, call.gain)
    check_like(f"{where}: shortcut", call.shortcut, call.conv.out_shape(call.x, call.weight), call.x.dtype)
    check_like(f"{where}: gain", call.gain, (), *FLOATS)


def _fwd_fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    call = Forward(*args)
    x, z = call.x, call.conv.out_shape(call.x, call.weight)
    tables = x.new_empty(2, z[1], dtype=torch.float64)
    return empty_channels_last(x, pooled(z, call.pool)), empty_channels_last(x, z), tables


def _bwd(*args: Any) -> Any:
    call = Backward(*args)
    return registry.select("conv_norm", call.x, call.weight.shape, call.conv).backward(call)


def _check_bwd(*args: Any) -> None:
    where, call = "conv_norm_bwd", Backward(*args)
    _check_tensors(where, call)
    z = call.conv.out_shape(call.x, call.weight)
    check_like(f"{where}: z", call.z, z, call.x.dtype)
    check_like(f"{where}: grad", call.grad, pooled(z, call.pool), call.x.dtype)
    check_tables(where, call.z.shape, gamma=call.gamma, beta=call.beta)
    check_like(f"{where}: tables", call.tables, (2, z[1]), torch.float64)


def _bwd_fake(*args: Any) -> tuple[Tensor, ...]:
    call = Backward(*args)
    none = call.grad.new_empty
    return (
        empty_channels_last(call.x, call.x.shape) if call.need_x else none(0),
        torch.empty_like(call.weight) if call.need_weight else none(0),
        empty_channels_last(call.z, call.z.shape) if call.need_shortcut else none(0),
        none(0) if call.gain is None or not call.need_gain else torch.empty_like(call.gain),
        *fake_affine_gradients(call.grad, call.gamma, call.beta, call.need_affine),
    )


TENSORS = "Tensor? shortcut, Tensor? gain"
conv_norm_fwd = define(
    f"conv_norm_fwd(Tensor x, Tensor weight, {TENSORS}, {ONE_NORM}, {CONV}, int pool) -> (Tensor, Tensor, Tensor)",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
conv_norm_bwd = define(
    f"conv_norm_bwd(Tensor grad, Tensor x, Tensor weight, Tensor z, {TENSORS}, Tensor? gamma, Tensor? beta, "
    f"Tensor tables, bool of_batch, {CONV}, int pool, bool need_x, bool need_weight, bool need_shortcut, "
    "bool need_gain, bool need_affine) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
