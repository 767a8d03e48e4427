"""`term_weights` on the host: a dozen numbers, which lie there on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = frozenset({torch.float32, torch.float64})


def forward(
    weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int, dtype: torch.dtype
) -> Tensor:
    """The weights of the terms."""
    g, w = _numbers(weights, gain, order, identity)
    share = 1 - g + (g * w[identity] if identity >= 0 else 0)
    return torch.tensor([share if k < 0 else g * w[k] for k in order], dtype=dtype)


def backward(
    grad: Tensor, weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int
) -> tuple[Tensor, Tensor]:
    """dL/dw and dL/dg; an empty tensor and 0 where there are none."""
    g, w = _numbers(weights, gain, order, identity)
    of_terms, of_shares = [0.0] * len(w), 0.0
    for part, k in zip(grad.tolist(), order, strict=True):
        if k < 0:
            of_shares += part
            k = identity
        if k >= 0:
            of_terms[k] += part
    of_gain = 0.0 if gain is None else sum([a * b for a, b in zip(w, of_terms, strict=True)]) - of_shares
    return (
        torch.empty(0, dtype=grad.dtype)
        if weights is None
        else torch.tensor([g * part for part in of_terms], dtype=weights.dtype),
        torch.tensor(of_gain, dtype=grad.dtype if gain is None else gain.dtype),
    )


def _numbers(
    weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int
) -> tuple[float, list[float]]:
    """g and w."""
    w: list[float] = [1.0] * (1 + max(*order, identity)) if weights is None else weights.tolist()
    g: float = 1.0 if gain is None else gain.item()
    return g, w
