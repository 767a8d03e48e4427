"""Straight-through Gumbel-softmax: the default (Jang et al., ICLR 2017; docs/concepts.md)."""

from __future__ import annotations

from asose_fast.engine.alpha.estimators.estimator import Draw, Estimator, sampled
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.phases import PhaseName


class StraightThrough(Estimator):
    """i = argmax(a + G), w = one_hot(i), dL/da = J(q) c / T with q = softmax((a + G) / T), J(q) = diag(q) - q q^T.

    All operations run; only the sampled one hands a gradient on to the layers below. Biased, for q is not the
    one-hot weight that was used, the less the lower T, while the variance rises.
    """

    def begin(self, selector: Selector, phase: PhaseName) -> Draw:
        drawn = selector.sample(phase)
        return sampled(drawn.weights, drawn.index)
