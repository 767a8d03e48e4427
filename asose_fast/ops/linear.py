"""A linear layer: the classifier of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autocast import autocasts
from asose_fast.ops.autograd import differentiable, on_saved, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_floats, check_like, check_tensor
from asose_fast.ops.library import define
from asose_fast.ops.reference.linear import reference

registry.register(
    "linear",
    {
        "reference": "asose_fast.ops.reference.linear",
        "cpu": "asose_fast.ops.native.linear",
        "triton": "asose_fast.ops.triton.linear",
    },
    small=True,
)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, checked: bool = False) -> Tensor:
    """`F.linear` of a matrix, by kernels that can be launched again (`asose_fast.ops.native.rehearsals`).

        y = x W^T + b        dL/dx = g W        dL/dW = g^T x        dL/db = sum_n g_n

    Under autocast it is `F.linear` itself.

    Args:
        x: (N, F) float16, bfloat16, float32 or float64.
        weight: W, (O, F) in the dtype of x.
        bias: b, (O,) in the dtype of x; None where there is none.
        checked: whether the caller has seen to it that all of them fit.

    Returns:
        y: (N, O) in the dtype of x.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device.
    """
    if not checked:
        check_floats("linear: x", x)
    if autocasts(x):
        return reference(x, weight, bias)
    if not checked:
        _check("linear", x, weight, bias)
    return reference(x, weight, bias) if transformed() else _Linear.apply(x, weight, bias)


def has_kernels(x: Tensor, weight: Tensor) -> bool:
    """Whether something else than plain PyTorch serves such a call."""
    has = registry.has_kernels("linear", x.device.type, x.dtype)
    return has and not registry.serves("linear", "reference", x, weight.shape)


def _plain(ctx: Any) -> tuple[Callable[..., Tensor], Sequence[Any]]:
    return reference, ctx.saved_tensors


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        save(ctx, x, weight, bias)
        y: Tensor = linear_fwd.unchecked(x, weight, bias)
        return y

    @staticmethod
    @twice_differentiable(differentiable(_plain))
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, _ = ctx.saved_tensors
        needs = ctx.needs_input_grad
        found = on_saved(ctx, linear_bwd)(grad, x, weight, *needs)
        return tuple([g if need else None for g, need in zip(found, needs, strict=True)])


def _fwd(x: Tensor, weight: Tensor, bias: Tensor | None) -> Any:
    return registry.select("linear", x, weight.shape).forward(x, weight, bias)


def _check(where: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    check_floats(f"{where}: x", x)
    check_tensor(f"{where}: weight", weight)
    if x.dim() != 2 or weight.dim() != 2:
        raise ValueError(f"{where}: x must be (N, F) and weight (O, F), got {tuple(x.shape)} and {tuple(weight.shape)}")
    check_like(f"{where}: weight", weight, (weight.shape[0], x.shape[1]), x.dtype)
    if bias is not None:
        check_tensor(f"{where}: bias", bias)
        check_like(f"{where}: bias", bias, weight.shape[:1], x.dtype)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{where}: {name} is on {tensor.device}, x on {x.device}")


def _check_fwd(x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    _check("linear_fwd", x, weight, bias)


def _fwd_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


def _bwd(grad: Tensor, x: Tensor, weight: Tensor, *needs: bool) -> Any:
    return registry.select("linear", x, weight.shape).backward(grad, x, weight, *needs)


def _check_bwd(grad: Tensor, x: Tensor, weight: Tensor, *_: bool) -> None:
    _check("linear_bwd", x, weight, None)
    check_like("linear_bwd: grad", grad, (x.shape[0], weight.shape[0]), x.dtype)


def _bwd_fake(grad: Tensor, x: Tensor, weight: Tensor, *needs: bool) -> tuple[Tensor, ...]:
    shapes = x.shape, weight.shape, weight.shape[:1]
    return tuple(grad.new_empty(shape if need else 0) for shape, need in zip(shapes, needs, strict=True))


linear_fwd = define("linear_fwd(Tensor x, Tensor weight, Tensor? bias) -> Tensor", _fwd, _fwd_fake, _check_fwd)
linear_bwd = define(
    "linear_bwd(Tensor grad, Tensor x, Tensor weight, bool need_x, bool need_weight, bool need_bias) "
    "-> (Tensor, Tensor, Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
