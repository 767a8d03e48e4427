"""Estimators that run the sampled operation alone: GDAS, and the local score with a baseline."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asose_fast.engine.alpha.estimators.estimator import Draw, Estimator, one_hot, sampled
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.phases import PhaseName


class Gdas(Estimator):
    """dL/da = c_i q_i (e_i - q) / T with q = softmax((a + G) / T): the sampled row of straight-through's sum (Dong and
    Yang, arXiv 1910.04465, whose code adds the bare weights of the other operations; this is the paper's formula).

    One operation of K runs. Biased even for a loss that is linear in the weights.
    """

    def begin(self, selector: Selector, phase: PhaseName) -> Draw:
        drawn = selector.sample(phase)
        return sampled(drawn.weights, drawn.index, kept=drawn.index[:, None])


class LocalScore(Estimator):
    """dL/da = (c_i - b) (e_i - p) with p = softmax(a): the score function of each layer's sample, the loss taken as
    linear in that layer's weights, and b the layer's running mean of c_i (momentum `baseline_momentum`).

    One operation of K runs. Exact in expectation for a loss linear in each layer's weights; the baseline lowers the
    variance only. It starts anew where growth adds a layer.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.baseline: Tensor | None = None

    def begin(self, selector: Selector, phase: PhaseName) -> Draw:
        index = selector.sample(phase).index
        # Two graphs: the first is gone when the baseline needs the second.
        chance, again = (
            selector.boosted_logits(phase).log_softmax(1).gather(1, index[:, None])[:, 0] for _ in range(2)
        )
        chosen = one_hot(index, selector.boosted_logits(phase).detach())
        weights = (chosen * (1 + chance - chance.detach())[:, None]).float()
        weights.retain_grad()
        return sampled(weights, index, kept=index[:, None], chance=again)

    def finish(self, draw: Draw) -> None:
        """Takes b (e_i - p) off the gradient that the backward pass has given, and learns b."""
        assert draw.index is not None
        assert draw.weights.grad is not None
        assert draw.chance is not None
        costs = draw.weights.grad.gather(1, draw.index[:, None])[:, 0]
        if self.baseline is None or len(self.baseline) != len(costs):
            self.baseline = torch.zeros_like(costs)
        self.baseline = self.baseline.to(costs.device)  # a checkpoint has it on the host
        (-(self.baseline * draw.chance).sum()).backward()
        self.baseline = torch.lerp(costs, self.baseline, self.config.baseline_momentum)

    def state_dict(self) -> dict[str, Any]:
        return {"baseline": self.baseline}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.baseline = state["baseline"]
