"""The autograd node of a mixed layer."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops.autograd import save, twice_differentiable
from asose_fast.ops.library import observed, present
from asose_fast.ops.mixed_layer.backward import backward
from asose_fast.ops.mixed_layer.forward import forward
from asose_fast.ops.mixed_layer.operators import CHECKED, UNCHECKED
from asose_fast.ops.mixed_layer.plan import LayerPlan, Saved
from asose_fast.ops.mixed_layer.reference import differentiable_backward

_kind = attrgetter("shape", "dtype")


class MixedLayer(torch.autograd.Function):
    """Its inputs: the layer's plan, the weights of all terms, x, and what `Parts` names, in that order."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        ctx, layer, weights, x, *tensors = arguments
        result = forward(layer, weights, x, tensors)
        ctx.layer, ctx.uses_batch = layer, result.uses_batch
        ctx.like = [None if t is None else (t.dtype, t.shape) for t in tensors]
        parts = result.parts
        ys = _kept_ys(layer, result.ys, ctx.needs_input_grad)
        ctx.with_ys = list(map(len, ys))
        saved = Saved(
            x, weights, result.mean, result.rstd, None if layer.recompute else result.pools.places,
            parts.affine, result.stages, _kept_dense(layer, result.dense),
            parts.zs, parts.plain if ctx.needs_input_grad[1] else [],
            *([], []) if layer.recompute else (_kept(layer, result.outputs), result.pools.outputs),
            ys, parts._replace(zs=[], plain=[]),
        )  # fmt: skip
        tensors = saved.tensors()
        ctx.kinds = _kinds([result.y, *tensors])
        save(ctx, *tensors)
        return result.y

    @staticmethod
    @twice_differentiable(differentiable_backward)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        layer: LayerPlan = ctx.layer
        needs, tensors = ctx.needs_input_grad, ctx.saved_tensors
        saved = Saved.of(layer, needs[1], ctx.with_ys, tensors)
        # Hooks may exchange what was saved, and the operators say what is wrong with it.
        read = [grad, *tensors]
        looked_at = layer.checked and _kinds(read) == ctx.kinds and not observed(read)
        grad_weights, grad_x, others = backward(
            layer, saved, needs, ctx.uses_batch, grad, UNCHECKED if looked_at else CHECKED
        )
        return (
            None,
            grad_weights,
            grad_x,
            *(
                _as(g, *like) if needed and g is not None else None
                for g, needed, like in zip(others, needs[3:], ctx.like, strict=True)
            ),
        )


def _kinds(tensors: Sequence[Tensor | None]) -> list[object]:
    """Shapes and dtypes of those that are there."""
    return list(map(_kind, present(tensors)))


def _kept(layer: LayerPlan, outputs: list[list[Tensor]]) -> list[list[Tensor | None]]:
    """The outputs of the stages that backward reads: of a chain that hands no gradient on, only the last.

    Its sums are wanted, for the gradient of its weight.
    """
    return [
        [z if layer.tracked[k] or layer.lengths[k] == depth + 1 else None for k, z in enumerate(zs)]
        for depth, zs in enumerate(outputs)
    ]


def _kept_ys(layer: LayerPlan, ys: list[list[Tensor]], needs: Sequence[bool]) -> list[list[Tensor | None]]:
    """The depthwise outputs that backward reads, for the gradients of pointwise weights."""
    wanted = layer.split(needs[3:]).pointwise
    return [
        [y if layer.tracked[k] else None for k, y in enumerate(of_depth)] if any(need) and not layer.recompute else []
        for of_depth, need in zip(ys, wanted, strict=True)
    ]


def _kept_dense(layer: LayerPlan, read: list[list[Tensor]]) -> list[list[Tensor | None]]:
    """What the convolutions of dense branches that hand gradients on have read."""
    tracked = layer.tracked[len(layer.tracked) - len(read) :]
    return [[z if keep else None for z in inputs] for keep, inputs in zip(tracked, read, strict=True)]


def _as(grad: Tensor, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    """The gradient in the dtype and shape of its tensor, as it is where it can be."""
    if grad.shape != shape:
        grad = grad.reshape(shape)
    return grad if grad.dtype is dtype else grad.to(dtype)
