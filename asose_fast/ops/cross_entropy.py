"""The cross-entropy of class scores, and how many of them are right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autograd import gradients, on_saved, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_floats, check_like, check_number, check_tensor
from asose_fast.ops.library import define
from asose_fast.ops.reference.cross_entropy import loss, reference

registry.register(
    "cross_entropy",
    {"reference": "asose_fast.ops.reference.cross_entropy", "cpu": "asose_fast.ops.native.cross_entropy"},
    small=True,
)


def cross_entropy(scores: Tensor, labels: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of class scores for labels, and the number of right ones, in one call a direction.

        loss = -1/M sum_i sum_c t_ic log p_ic        p = softmax(scores)
        t_ic = (1 - smoothing) 1[c = label_i] + smoothing / classes
        dL/dscores_ic = dL/dloss (p_ic - t_ic) / M

    The loss is `F.cross_entropy(scores, labels, label_smoothing=smoothing)`: a label of -100 counts neither in it nor
    in M, the number of the others, and without any it is NaN. A score is right that is the first of the largest, or
    the first NaN (`torch.argmax`).

    Args:
        scores: (N, classes) float16, bfloat16, float32 or float64.
        labels: (N,) int64.
        smoothing: from 0 to 1.

    Returns:
        The loss, a scalar in the dtype of the scores, and the number of right ones, an int64 scalar.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device.
        IndexError: a label that is no class, on the CPU.
    """
    _check_fwd(scores, labels, smoothing)
    if transformed():
        return reference(scores, labels, smoothing)
    found: tuple[Tensor, Tensor] = _CrossEntropy.apply(scores, labels, smoothing)
    return found


def _differentiable_backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    scores, labels, _ = ctx.saved_tensors
    return gradients(ctx, loss, (scores, labels, ctx.smoothing), [grad])


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        value, correct, probabilities = cross_entropy_fwd.unchecked(scores, labels, smoothing)
        ctx.smoothing = smoothing
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(correct)
        save(ctx, scores, labels, probabilities)
        return value, correct

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None
        _, labels, probabilities = ctx.saved_tensors
        return on_saved(ctx, cross_entropy_bwd)(grad, probabilities, labels, ctx.smoothing), None, None


def _fwd(scores: Tensor, labels: Tensor, smoothing: float) -> Any:
    return registry.select("cross_entropy", scores).forward(scores, labels, smoothing)


def _check(where: str, name: str, table: Tensor, labels: Tensor, smoothing: float) -> None:
    check_floats(f"{where}: {name}", table)
    if table.dim() != 2 or table.shape[1] == 0:
        raise ValueError(f"{where}: {name} must be (N, classes) with classes > 0, got {tuple(table.shape)}")
    check_tensor(f"{where}: labels", labels)
    check_like(f"{where}: labels", labels, table.shape[:1], torch.int64)
    check_number(f"{where}: smoothing", smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"{where}: smoothing must be from 0 to 1, got {smoothing}")


def _check_fwd(scores: Tensor, labels: Tensor, smoothing: float) -> None:
    _check("cross_entropy_fwd", "scores", scores, labels, smoothing)


def _fwd_fake(scores: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, ...]:
    return scores.new_empty(()), labels.new_empty(()), scores.new_empty(scores.shape)


def _bwd(grad: Tensor, probabilities: Tensor, labels: Tensor, smoothing: float) -> Any:
    return registry.select("cross_entropy", probabilities).backward(grad, probabilities, labels, smoothing)


def _check_bwd(grad: Tensor, probabilities: Tensor, labels: Tensor, smoothing: float) -> None:
    _check("cross_entropy_bwd", "probabilities", probabilities, labels, smoothing)
    check_like("cross_entropy_bwd: grad", grad, (), probabilities.dtype)


def _bwd_fake(grad: Tensor, probabilities: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return grad.new_empty(probabilities.shape)


cross_entropy_fwd = define(
    "cross_entropy_fwd(Tensor scores, Tensor labels, float smoothing) -> (Tensor, Tensor, Tensor)",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
cross_entropy_bwd = define(
    "cross_entropy_bwd(Tensor grad, Tensor probabilities, Tensor labels, float smoothing) -> Tensor",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
