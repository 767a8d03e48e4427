"""ReinMax (Liu et al., arXiv 2304.08612)."""

from __future__ import annotations

from torch import Tensor

from asose_fast.engine.alpha.estimators.estimator import Draw, Estimator, one_hot, sampled
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.phases import PhaseName


class ReinMax(Estimator):
    """i ~ p = softmax(a), w = one_hot(i), dL/da = 2 J((p_T + w) / 2) c - J(p) c / 2 with p_T = softmax(a / T).

    The trapezoidal rule between the sampled and the expected weights, where straight-through estimation takes one end:
    second-order accurate, exact at T = 1 for a loss quadratic in the weights of one layer. Runs what
    straight-through runs.
    """

    def begin(self, selector: Selector, phase: PhaseName) -> Draw:
        drawn = selector.sample(phase)
        logits = selector.boosted_logits(phase)
        weights = reinmax_weights(logits, drawn.index, selector.effective_temperature(phase))
        return sampled(weights.to(drawn.weights.dtype), drawn.index)


def reinmax_weights(logits: Tensor, index: Tensor, temperature: float) -> Tensor:
    """one_hot(index) with the gradient of ReinMax, (L, K) in the dtype of `logits`."""
    chosen = one_hot(index, logits)
    middle = ((logits.detach() / temperature).softmax(1) + chosen) / 2
    at_middle = ((middle.log() - logits.detach()) + logits).softmax(1)  # the values of middle, the Jacobian J(middle)
    surrogate = 2 * at_middle - logits.softmax(1) / 2
    return chosen + (surrogate - surrogate.detach())
