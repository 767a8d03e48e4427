"""Rao-Blackwellised straight-through Gumbel-softmax (Paulus et al., arXiv 2010.04838)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.engine.alpha.estimators.estimator import Draw, Estimator, one_hot, sampled
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.phases import PhaseName
from asose_fast.ops.noise import gumbel_noise


class GumbelRao(Estimator):
    """Straight-through with its Jacobian averaged over m draws of the noise, all of which sample the same operation:
    dL/da = mean_m J(q_m) c / T. The same expectation, less variance, and no more operations to run.
    """

    def begin(self, selector: Selector, phase: PhaseName) -> Draw:
        drawn = selector.sample(phase)
        logits, count = selector.boosted_logits(phase), self.config.gumbel_rao_samples
        exponential = torch.exp(-gumbel_noise(selector.next_draw(), count * len(logits), logits.shape[1]))
        exponential = exponential.view(count, *logits.shape)
        weights = rao_weights(logits, drawn.index, exponential, selector.effective_temperature(phase))
        return sampled(weights.to(drawn.weights.dtype), drawn.index)


def rao_weights(logits: Tensor, index: Tensor, exponential: Tensor, temperature: float) -> Tensor:
    """one_hot(index) with the averaged gradient, (L, K) in the dtype of `logits`.

    Given that i is sampled, and with E ~ Exp(1) (`exponential`, (m, L, K)) and Z = sum_k e^a_k, the perturbed logits
    are a_i + G_i = ln Z - ln E_i and, for k != i, a_k + G_k = -ln(E_k / e^a_k + E_i / Z).
    """
    a = logits.detach()
    total = a.logsumexp(1, keepdim=True)
    chosen = index[:, None]
    lead = exponential.gather(2, chosen.expand(len(exponential), -1, -1))
    perturbed = -(exponential * (-a).exp() + lead * (-total).exp()).log()
    perturbed = perturbed.scatter(2, chosen.expand(len(exponential), -1, -1), total - lead.log())
    # The gradient treats the noise as fixed, as straight-through estimation does.
    surrogate = ((perturbed - a + logits) / temperature).softmax(2).mean(0)
    return one_hot(index, logits) + (surrogate - surrogate.detach())
