"""A dense convolution, its batch norm and what follows that, as one node of autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops.autocast import computing_dtype, without_autocast
from asose_fast.ops.autograd import gradients, save, transformed, twice_differentiable
from asose_fast.ops.dense import Dense
from asose_fast.ops.dense_conv import check_convolution, dense_conv_bwd, dense_conv_fwd
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.library import operators
from asose_fast.ops.norm_lerp import check_blend, norm_lerp_bwd, norm_lerp_fwd
from asose_fast.ops.norm_pool import check_pool, norm_pool_bwd, norm_pool_fwd
from asose_fast.ops.norms import OneNorm, check_count, check_norm, held, measured, uses_batch
from asose_fast.ops.reference.dense_conv import reference as convolved
from asose_fast.ops.reference.norm_lerp import reference as blended
from asose_fast.ops.reference.norm_pool import reference as pooled


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
    has half of their nodes.

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
            return _plain(x, weight, conv, norm, pool, shortcut, gain)
        x = x.contiguous(memory_format=torch.channels_last)
        call = _Call(conv, norm, uses_batch(norm), pool)
        check_count([call.of_batch], torch.Size(conv.out_shape(x, weight)))
        if gain is not None:
            gain = gain.to(accumulation_dtype(x.dtype))
        y: Tensor = _ConvNorm.apply(call, x, weight, held(norm, "weight"), held(norm, "bias"), shortcut, gain)
    return y


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
    if (shortcut is None) != (gain is None) or (gain is not None and pool != 1):
        raise ValueError("conv_norm: shortcut and gain must be given together, and without a pool")
    if shortcut is not None and gain is not None:
        check_blend("conv_norm", conv.out_shape(x, weight), computing_dtype(x), x.device, shortcut, gain)


def _plain(
    x: Tensor,
    weight: Tensor,
    conv: Dense,
    norm: Callable[[Tensor], Tensor],
    pool: int,
    shortcut: Tensor | None,
    gain: Tensor | None,
) -> Tensor:
    """What `conv_norm` computes, as PyTorch would."""
    z = convolved(x, weight, conv)
    return pooled(z, norm, pool) if shortcut is None or gain is None else blended(z, norm, shortcut, gain)


class _Call(NamedTuple):
    """What the node computes, apart from its tensors."""

    conv: Dense
    norm: nn.BatchNorm2d
    of_batch: bool
    pool: int


def _differentiable_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, _, gamma, beta, found, shortcut, gain = ctx.saved_tensors

    def plain(call: _Call, x: Tensor, weight: Tensor, *others: Tensor | None) -> Tensor:
        gamma, beta, shortcut, gain = others
        rows = [None if t is None else t[None] for t in (gamma, beta)]
        (norm,) = measured(found[:1], found[1:], rows[0], rows[1], [call.of_batch])
        return _plain(x, weight, call.conv, norm, call.pool, shortcut, gain)

    return gradients(ctx, plain, (ctx.call, x, weight, gamma, beta, shortcut, gain), [grad])


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
        ctx.call = call
        norm = OneNorm.of(call.norm, call.of_batch, gamma, beta)
        run = operators([x, weight, shortcut, gain, *norm[:5]])
        z = run(dense_conv_fwd)(x, weight, *call.conv)
        if gain is None:
            y, tables = run(norm_pool_fwd)(z, *norm, call.pool)
        else:
            y, tables = run(norm_lerp_fwd)(z, shortcut, gain, *norm)
        save(ctx, x, weight, z, gamma, beta, tables, shortcut, gain)
        return y  # type: ignore[no-any-return]

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        x, weight, z, gamma, beta, tables, shortcut, gain = saved = ctx.saved_tensors
        _, need_x, need_weight, need_gamma, need_beta, need_shortcut, need_gain = needs = ctx.needs_input_grad
        need_z, need_affine = need_x or need_weight, need_gamma or need_beta
        of_shortcut = of_gain = of_x = of_weight = None
        run = operators([grad, *saved], checked=ctx.exchanged)
        if gain is None:
            of_z, *affine = run(norm_pool_bwd)(
                grad, z, gamma, beta, tables, call.of_batch, call.pool, need_z, need_affine
            )
        else:
            of_z, of_shortcut, of_gain, *affine = run(norm_lerp_bwd)(
                grad, z, shortcut, gain, gamma, beta, tables, call.of_batch,
                need_z, need_shortcut, need_gain, need_affine,
            )  # fmt: skip
        if need_z:
            of_x, of_weight = run(dense_conv_bwd)(of_z, x, weight, *call.conv, need_x, need_weight)
        found = None, of_x, of_weight, *affine, of_shortcut, of_gain
        return tuple(g if need else None for g, need in zip(found, needs, strict=True))
