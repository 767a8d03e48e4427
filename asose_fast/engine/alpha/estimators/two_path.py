"""Two sampled operations a layer (ProxylessNAS, Cai et al., arXiv 1812.00332)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.engine.alpha.estimators.estimator import Draw, Estimator, one_hot, sampled
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.phases import PhaseName
from asose_fast.ops.noise import gumbel_noise


class TwoPath(Estimator):
    """Two operations {i, j} ~ p = softmax(a) without replacement, one of them active with the probabilities
    r = (p_i, p_j) / (p_i + p_j): w = one_hot(active), dL/da = J(r) (c_i, c_j) for the two, 0 for the others.

    Two operations of K run; the gradient takes nothing from one to give to the rest.
    """

    def begin(self, selector: Selector, phase: PhaseName) -> Draw:
        logits = selector.boosted_logits(phase)
        noise, choice = (gumbel_noise(selector.next_draw(), *logits.shape) for _ in range(2))
        pair = (logits.detach() + noise).topk(min(2, logits.shape[1]), dim=1).indices
        active = (logits.detach() + choice).gather(1, pair).argmax(1)
        index = pair.gather(1, active[:, None])[:, 0]
        weights = pair_weights(logits, pair, index).to(selector.logits().dtype)
        return sampled(weights, index, kept=pair)


def pair_weights(logits: Tensor, pair: Tensor, index: Tensor) -> Tensor:
    """one_hot(index) with the gradient of the two operations `pair` (L, 2), (L, K) in the dtype of `logits`."""
    share = torch.zeros_like(logits).scatter(1, pair, logits.gather(1, pair).softmax(1))
    return one_hot(index, logits) + (share - share.detach())
