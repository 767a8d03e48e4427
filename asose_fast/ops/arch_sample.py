"""What `arch_weights` is told and what it returns."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Boost:
    """Adds `amount` to the `top_k` largest logits of an undecided layer (docs/concepts.md).

    A layer is undecided when its leading operation is not `skip` and its largest probability is below `below`.
    `none` is never boosted, and no further operation takes its place. Of equal logits, the first one ranks higher.
    `skip` and `none` are indices of candidates; -1 says that the space has no such candidate.
    """

    top_k: int = 3
    amount: float = 0.5
    below: float = 0.4
    skip: int = 3
    none: int = 0


class ArchWeights(NamedTuple):
    """What `arch_weights` returns. All but `weights` are for monitoring and carry no gradient."""

    weights: Tensor
    """(L, K): one-hot rows where hard, the softmax rows where soft."""
    index: Tensor  # type: ignore[assignment]
    """int64 (L,): the sampled operation of each layer."""
    entropy: Tensor
    """(L,): entropy in nats of softmax(logits), without noise, boost or temperature."""
    max_prob: Tensor
    """(L,): largest probability of softmax(logits)."""


def boosted(logits: Tensor, boost: Boost | None) -> Tensor:
    """a' = a + amount * mask, float64 (L, K), with the identity as gradient."""
    a = logits.double()
    if boost is None:
        return a
    return a + boost.amount * _boost_mask(a.detach(), a.detach().softmax(1).amax(1), boost)


def _boost_mask(a: Tensor, max_prob: Tensor, boost: Boost) -> Tensor:
    order = a.sort(dim=1, descending=True, stable=True).indices
    undecided = (order[:, 0] != boost.skip) & (max_prob < boost.below)
    mask = torch.zeros_like(a).scatter(1, order[:, : boost.top_k], 1.0)
    if boost.none >= 0:
        mask[:, boost.none] = 0.0
    return mask * undecided[:, None]
