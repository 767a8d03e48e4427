"""A function whose launches were rehearsed (`asose_fast.ops.native.rehearsals`) as a node of autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops.autograd import batched, gradients, save
from asose_fast.ops.native.rehearsed import Rehearsed
from asose_fast.ops.played import followed
from asose_fast.ops.tape import whereabouts


def launched(rehearsed: Rehearsed, again: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """What the function makes of the inputs, by its launches.

    Args:
        rehearsed: its launches for inputs like these, which want the same gradients.
        again: the function, without its effects on anything but its output: backward runs it where it is to be
            differentiated twice, or followed.
        inputs: dense.
    """
    y: Tensor = _Launched.apply(rehearsed, again, *inputs)
    return y


class _Launched(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        rehearsed: Rehearsed
        ctx, rehearsed, again, *inputs = arguments
        ctx.rehearsed, ctx.again, ctx.inputs = rehearsed, again, whereabouts([*inputs, *rehearsed.read])
        y, kept = rehearsed.forward(inputs)
        # Autograd is given what backward reads of parameters too: it knows when they are written before that.
        save(ctx, *inputs, *rehearsed.read, y if rehearsed.reads_y else None, kept)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rehearsed: Rehearsed = ctx.rehearsed
        *tensors, y, kept = ctx.saved_tensors
        inputs = tensors[: len(tensors) - len(rehearsed.read)]
        found: list[Tensor | None] = [None] * (2 + len(inputs))
        moved = whereabouts([*inputs, *rehearsed.read]) != ctx.inputs
        if torch.is_grad_enabled() or batched(grad) or followed() or moved:
            return gradients(ctx, lambda _, again, *inputs: again(*inputs), (None, ctx.again, *inputs), [grad])
        grad = grad.contiguous(memory_format=rehearsed.y.format)
        for number, of_input in zip(rehearsed.wanted, rehearsed.backward(grad, inputs, y, kept), strict=True):
            found[2 + number] = of_input
        return tuple(found)
