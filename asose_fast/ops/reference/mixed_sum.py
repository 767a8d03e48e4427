"""`mixed_sum` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import memory_format

DTYPES = FLOATS


def reference(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The formula of `mixed_sum` in plain differentiable PyTorch, zero weights skipped."""
    acc = accumulation_dtype(xs[0].dtype)
    terms = [
        # Finite in place of infinite, so that a zero weight gives zero and still has its gradient <g, x_k>.
        torch.where(w == 0, x.to(acc).nan_to_num(0.0, 0.0, 0.0), x.to(acc)) * w
        for x, w in zip(xs, weights.to(acc).unbind(), strict=True)
    ]
    return torch.stack(terms).sum(0).to(xs[0].dtype).contiguous(memory_format=memory_format(xs[0]))


def forward(xs: list[Tensor], weights: Tensor) -> Tensor:
    """What `reference` gives, as a backend."""
    return reference(xs, weights)


def backward(
    grad: Tensor, xs: list[Tensor], weights: Tensor, need_x: list[bool], need_weights: bool
) -> tuple[list[Tensor], Tensor]:
    """The gradients that are needed: w_k g in the layout of `grad`, and <g, x_k> (else an empty tensor)."""
    g = grad.to(weights.dtype)
    format = memory_format(grad)
    grad_xs = [
        torch.where(w == 0, 0, g * w).to(grad.dtype).contiguous(memory_format=format)
        for w, need in zip(weights.unbind(), need_x, strict=True)
        if need
    ]
    if not need_weights:
        return grad_xs, weights.new_empty(0)
    return grad_xs, torch.stack([(g.double() * x.double()).sum() for x in xs]).to(weights.dtype)
