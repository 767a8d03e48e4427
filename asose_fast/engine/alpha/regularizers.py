"""Terms that are added to the validation loss in alpha steps."""

from __future__ import annotations

from torch import Tensor


def beta_decay(logits: Tensor, weight: float) -> Tensor:
    """weight * mean_l ln sum_k e^(a_lk), a scalar (Ye et al., beta-DARTS, arXiv 2203.01665).

    Its gradient is weight / L * softmax(a): it draws every logit down by its own probability, so that none runs away
    from the others, and a layer only decides for what the loss keeps asking for. `logits` is (L, K).
    """
    return weight * logits.logsumexp(1).mean()
