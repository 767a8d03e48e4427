"""The relaxed mixture (Maddison et al., Jang et al., ICLR 2017; without noise, DARTS, arXiv 1806.09055)."""

from __future__ import annotations

from torch import Tensor

from asose_fast.engine.alpha.estimators.estimator import Draw, Estimator
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.phases import PhaseName


class Soft(Estimator):
    """w = softmax((a + G) / T), dL/da = J(w) c / T: the exact gradient of a network that is not the one to be derived.

    All operations run, with all gradients, in alpha steps and, after the warmup, in weight steps too, since weights
    that never saw a mixture do not fit one: these cost several times those of a sampled path.
    """

    def begin(self, selector: Selector, phase: PhaseName) -> Draw:
        return Draw(selector.sample(phase, hard=False).weights, None)

    def mixture(self, selector: Selector, phase: PhaseName) -> Tensor | None:
        return None if phase == "warmup" else selector.sample(phase, hard=False).weights.detach()
