"""`term_weights` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = frozenset({torch.float32, torch.float64})


def reference(weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int) -> Tensor:
    """The formula in plain differentiable PyTorch."""
    blended = weights if gain is None else gain if weights is None else gain * weights
    assert blended is not None
    parts = None if weights is None else blended.unbind()

    def term(k: int) -> Tensor:
        if k < 0:
            assert gain is not None
            return 1 - gain + term(identity) if identity >= 0 else 1 - gain
        return blended if parts is None else parts[k]

    return torch.stack([term(k) for k in order])


def forward(
    weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int, dtype: torch.dtype
) -> Tensor:
    """The weights of the terms, as a backend."""
    return reference(weights, gain, order, identity).to(dtype)


def backward(
    grad: Tensor, weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int
) -> tuple[Tensor, Tensor]:
    """dL/dw and dL/dg; an empty tensor and 0 where there are none."""
    size = 1 + max(*order, identity) if weights is None else len(weights)
    of_terms, of_shares = [grad.new_zeros(()) for _ in range(size)], grad.new_zeros(())
    for part, k in zip(grad.unbind(), order, strict=True):
        if k < 0:
            of_shares = of_shares + part
            k = identity
        if k >= 0:
            of_terms[k] = of_terms[k] + part
    found = torch.stack(of_terms) if of_terms else grad.new_zeros(0)
    of_gain = (found if weights is None else weights * found).sum() - of_shares
    grad_weights = found if gain is None else gain * found
    return (
        grad.new_empty(0) if weights is None else grad_weights.to(weights.dtype),
        grad.new_zeros(()) if gain is None else of_gain.to(gain.dtype),
    )
