"""The head of a network: its batch norm, the ReLU and the mean over all pixels, in one operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.autograd import differentiable, on_saved, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_channels, check_like, check_tensor
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
from asose_fast.ops.reference.norm_relu_mean import reference

registry.register(
    "norm_relu_mean",
    {
        "reference": "asose_fast.ops.reference.norm_relu_mean",
        "cpu": "asose_fast.ops.native.norm_relu_mean",
        "triton": "asose_fast.ops.triton.norm_relu_mean",
    },
    small=True,
)


def norm_relu_mean(x: Tensor, norm: nn.BatchNorm2d | None = None) -> Tensor:
    """The mean over all pixels of a rectified tensor, normalised before: two passes over memory forward, one backward.

        y_nc = sum_hw ReLU(BN(x)) / HW
        dL/dx = scale 1[BN(x) > 0] g_nc / HW + slope (x - mean) + shift        as in `mixed_norm_sum`

    Forward keeps the count of the pixels where BN(x) > 0, and the sum of x - mean over these, for every channel of
    every image. S0 and S1, of which slope, shift and the gradients of the norm's parameters are made, are sums of g
    times these over the images, so that backward need not look for them. As in PyTorch, the gradient of the ReLU is 0
    at 0, and a NaN makes its mean NaN.

    Args:
        x: (N, C, H, W) float16, bfloat16, float32 or float64; its memory format is that of the computation.
        norm: for C channels; None where there is none. It does what its module would, running statistics included.

    Returns:
        y: (N, C) in the dtype of x.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or fewer than two values a channel
            where the norm needs the statistics of the batch.
    """
    check_tensor("norm_relu_mean: x", x)
    check_channels("norm_relu_mean: x", x)
    of_batch, gamma, beta = False, None, None
    if norm is not None:
        check_norm("norm_relu_mean: norm", norm, x, "x has")
        of_batch, gamma, beta = uses_batch(norm), held(norm, "weight"), held(norm, "bias")
    if transformed():
        return reference(x, norm)
    check_count([of_batch], x.shape)
    y: Tensor = _NormReluMean.apply(norm, of_batch, x, gamma, beta)
    return y


def _plain(ctx: Any) -> tuple[Callable[..., Tensor], Sequence[Any]]:
    x, gamma, beta, tables, _ = ctx.saved_tensors

    def plain(_: object, of_batch: bool, x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
        rows = [None if t is None else t[None] for t in (gamma, beta)]
        (norm,) = measured(tables[:1], tables[1:], rows[0], rows[1], [of_batch])
        return reference(x, norm)

    return plain, (None, ctx.of_batch, x, gamma, beta)


NO_NORM = OneNorm(None, None, None, None, None, False, 0.0, 0.0)
"""There is no norm where one has no statistics and is not `of_batch`."""


def _norm_of(norm: nn.BatchNorm2d | None, of_batch: bool, gamma: Tensor | None, beta: Tensor | None) -> OneNorm:
    return NO_NORM if norm is None else OneNorm.of(norm, of_batch, gamma, beta)


class _NormReluMean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, norm: nn.BatchNorm2d | None, of_batch: bool, x: Tensor, gamma: Tensor | None, beta: Tensor | None
    ) -> Tensor:
        y: Tensor
        y, *saved = norm_relu_mean_fwd.unchecked(x, *_norm_of(norm, of_batch, gamma, beta))
        ctx.of_batch = of_batch
        save(ctx, x, gamma, beta, *saved)
        return y

    @staticmethod
    @twice_differentiable(differentiable(_plain))
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, _, *needs = ctx.needs_input_grad
        found = on_saved(ctx, norm_relu_mean_bwd)(
            grad, *ctx.saved_tensors, ctx.of_batch, needs[0], needs[1] or needs[2]
        )
        return None, None, *(g if need else None for g, need in zip(found, needs, strict=True))


def _fwd(x: Tensor, *norm: Any) -> Any:
    return registry.select("norm_relu_mean", x).forward(x, OneNorm(*norm))


def _check_fwd(x: Tensor, *norm: Any) -> None:
    check_channels("norm_relu_mean_fwd: x", x)
    OneNorm(*norm).check("norm_relu_mean_fwd", x.shape, optional=True)


def _fwd_fake(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    images, channels = x.shape[:2]
    return (
        x.new_empty(images, channels),
        x.new_empty(2, channels, dtype=torch.float64),
        x.new_empty(2, images, channels, dtype=torch.float64),
    )


class _Backward(NamedTuple):
    """The arguments of the registered operator."""

    grad: Tensor
    x: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    tables: Tensor
    active: Tensor
    of_batch: bool
    need_x: bool
    need_affine: bool


def _bwd(*args: Any) -> Any:
    return registry.select("norm_relu_mean", args[0]).backward(*args)


def _check_bwd(*args: Any) -> None:
    where, call = "norm_relu_mean_bwd", _Backward(*args)
    check_channels(f"{where}: x", call.x)
    check_tables(where, call.x.shape, gamma=call.gamma, beta=call.beta)
    shape = call.x.shape[:2]
    check_like(f"{where}: grad", call.grad, shape, call.x.dtype)
    check_like(f"{where}: tables", call.tables, (2, shape[1]), torch.float64)
    check_like(f"{where}: active", call.active, (2, *shape), torch.float64)


def _bwd_fake(*args: Any) -> tuple[Tensor, ...]:
    call = _Backward(*args)

    of_x = torch.empty_like(call.x, memory_format=memory_format(call.x)) if call.need_x else call.x.new_empty(0)
    return of_x, *fake_affine_gradients(call.grad, call.gamma, call.beta, call.need_affine)


norm_relu_mean_fwd = define(
    f"norm_relu_mean_fwd(Tensor x, {ONE_NORM}) -> (Tensor, Tensor, Tensor)",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
norm_relu_mean_bwd = define(
    "norm_relu_mean_bwd(Tensor grad, Tensor x, Tensor? gamma, Tensor? beta, Tensor tables, Tensor active, "
    "bool of_batch, bool need_x, bool need_affine) -> (Tensor, Tensor, Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
