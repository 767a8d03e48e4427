"""Convolutions whose output, gradient of x and gradient of the weight are each of the backend that is best at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autocast import computing_dtype

RESULTS = ("y", "x", "weight")
"""A backend is chosen for each of these by itself: the output, the gradient of x, that of weight."""


def has_kernels(op: str, x: Tensor, *details: object) -> bool:
    """Whether kernels serve some of such a call. `details` are what the operator's backends are chosen by."""
    if not registry.has_kernels(op, x.device.type, computing_dtype(x)):
        return False
    return any(registry.serves(op, "cpu", x, *details, result) for result in RESULTS)


def backward(
    op: str,
    details: Sequence[object],
    tensors: tuple[Tensor, Tensor, Tensor],
    conv: object,
    need_x: bool,
    need_weight: bool,
) -> Any:
    """The gradients of x and of the weight from `tensors`, dL/dy, x and the weight; empty where they are not needed."""
    _, x, weight = tensors
    for_x, for_weight = (registry.select(op, x, *details, result) for result in RESULTS[1:])
    if need_x and need_weight and for_x is for_weight:
        return for_x.backward(*tensors, conv, True, True)
    grad_x = for_x.backward(*tensors, conv, True, False)[0] if need_x else None
    grad_weight = for_weight.backward(*tensors, conv, False, True)[1] if need_weight else None
    return (
        x.new_empty(0) if grad_x is None else grad_x,
        weight.new_empty(0) if grad_weight is None else grad_weight,
    )
