"""What we compare with: corrected eager PyTorch, the same mathematics and the same gradients as ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asose_fast.space import Network


def eager_mixed_sum(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The weighted sum as it is usually written."""
    return sum(w * x for w, x in zip(weights, xs, strict=True))  # type: ignore[return-value]


def eager_arch_weights(logits: Sequence[Tensor], temperature: float) -> list[Tensor]:
    """Boosted hard Gumbel-softmax layer by layer, with entropy and largest probability; gradients as they should be."""
    sampled = []
    for a in logits:
        p = a.softmax(0)
        entropy = -(p * p.clamp_min(1e-30).log()).sum()
        top = p.max(0)
        undecided = (top.indices != 3) & (top.values < 0.4)
        mask = torch.zeros_like(a).scatter(0, a.topk(3).indices, 1.0)
        mask[0] = 0.0
        boosted = a + 0.5 * mask * undecided
        noise = -torch.empty_like(a).exponential_().log()
        y = ((boosted + noise) / temperature).softmax(0)
        index = y.argmax()
        one_hot = torch.zeros_like(y).scatter(0, index[None], 1.0)
        sampled.append(one_hot + y - y.detach() + 0 * entropy.detach())
    return sampled


class EagerMixture(nn.Module):
    """The network of a supernet's own modules, every candidate computed in every step, mixed by `eager_mixed_sum`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        x = self.network.stem(x)
        for block, w in zip(self.network.evolvable_blocks(), weights, strict=True):
            y = eager_mixed_sum([op(x) for op in block.mixed.ops.values()], w)
            if block.gain is not None:
                y = torch.lerp(x, y, block.gain)
            x = y if block.project is None else block.project(y)
        scores: Tensor = self.network.head(x)
        return scores
