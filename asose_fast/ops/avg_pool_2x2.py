"""The 2x2 means that the shortcut of a strided block takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autograd import differentiable, transformed, twice_differentiable
from asose_fast.ops.checks import check_floats, check_images, check_like
from asose_fast.ops.layout import empty_channels_last
from asose_fast.ops.library import define
from asose_fast.ops.reference.avg_pool_2x2 import out_shape, reference

registry.register(
    "avg_pool_2x2",
    {"reference": "asose_fast.ops.reference.avg_pool_2x2", "cpu": "asose_fast.ops.native.avg_pool_2x2"},
    small=True,
)


def avg_pool_2x2(x: Tensor) -> Tensor:
    """2x2 average pooling with stride 2 that counts what is inside the image, with one pass over memory a direction.

        y[:, :, i, j] = mean of x[:, :, 2 i : 2 i + 2, 2 j : 2 j + 2]
        dL/dx[:, :, h, w] = dL/dy[:, :, h // 2, w // 2] / pixels of that window

    This is `avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)`, in float32 and float64 to the bit.

    Args:
        x: (N, C, H, W) float16, bfloat16, float32 or float64. Other layouts than channels_last are converted.

    Returns:
        (N, C, ceil(H / 2), ceil(W / 2)), channels_last, in the dtype of x.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype or shape.
    """
    check_images("avg_pool_2x2: x", x)
    if transformed():
        return reference(x)
    y: Tensor = _AvgPool2x2.apply(x.contiguous(memory_format=torch.channels_last))
    return y


def _plain(ctx: Any) -> tuple[Callable[..., Tensor], Sequence[Any]]:
    x = torch.zeros((), dtype=ctx.dtype, device=ctx.device).expand(ctx.shape).requires_grad_()
    return reference, (x,)


class _AvgPool2x2(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape, ctx.dtype, ctx.device = x.shape, x.dtype, x.device
        y: Tensor = avg_pool_2x2_fwd.unchecked(x)
        return y

    @staticmethod
    @twice_differentiable(differentiable(_plain))
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (avg_pool_2x2_bwd.unchecked(grad, ctx.shape),)


def _fwd(x: Tensor) -> Any:
    return registry.select("avg_pool_2x2", x).forward(x)


def _check_fwd(x: Tensor) -> None:
    check_images("avg_pool_2x2_fwd: x", x)


def _fwd_fake(x: Tensor) -> Tensor:
    return empty_channels_last(x, out_shape(x.shape))


def _bwd(grad: Tensor, shape: Sequence[int]) -> Any:
    return registry.select("avg_pool_2x2", grad).backward(grad, shape)


def _check_bwd(grad: Tensor, shape: Sequence[int]) -> None:
    check_floats("avg_pool_2x2_bwd: grad", grad)
    if len(shape) != 4 or min(shape) < 0 or 0 in shape[1:]:
        raise ValueError(f"avg_pool_2x2_bwd: shape must be (N, C, H, W) with C, H, W > 0, got {tuple(shape)}")
    check_like("avg_pool_2x2_bwd: grad", grad, out_shape(shape), grad.dtype)


def _bwd_fake(grad: Tensor, shape: Sequence[int]) -> Tensor:
    return empty_channels_last(grad, shape)


avg_pool_2x2_fwd = define("avg_pool_2x2_fwd(Tensor x) -> Tensor", _fwd, _fwd_fake, _check_fwd)
avg_pool_2x2_bwd = define("avg_pool_2x2_bwd(Tensor grad, SymInt[] shape) -> Tensor", _bwd, _bwd_fake, _check_bwd)
