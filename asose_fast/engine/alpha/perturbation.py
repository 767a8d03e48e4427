"""Choosing operations by what the supernet loses without them (Wang et al., DARTS-PT, arXiv 2108.04392)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Accuracy = Callable[[Tensor], float]
"""Validation accuracy of the supernet with architecture weights (L, K)."""


@torch.no_grad()
def losses_without(probabilities: Tensor, accuracy: Accuracy, seed: int, excluded: Sequence[int] = ()) -> Tensor:
    """The accuracy that the supernet loses when candidate k of row l is taken away, (L, K) on the CPU.

    Row by row, in an order drawn with `seed`: w_lk = 0 and the rest of the row divided by its sum, the other rows at
    `probabilities` or, where they have had their turn, at the candidate that was missed most. The published method
    trains the supernet for some epochs after each row; here its weights stay. L (K + 1) evaluations. Of candidates that
    are missed alike the more probable one counts as missed more, by at most 1e-6; `excluded` ones (`none`, say, whose
    absence changes little wherever others do the work) as missed by -2, less than any can be.
    """
    weights = probabilities.clone()
    found = torch.zeros(weights.shape, dtype=torch.float64)
    order = torch.randperm(len(weights), generator=torch.Generator().manual_seed(seed)).tolist()
    for row in order:
        whole, complete = weights[row].clone(), accuracy(weights)
        for k in range(weights.shape[1]):
            without = whole.clone()
            without[k] = 0
            weights[row] = without / without.sum().clamp_min(1e-12)
            found[row, k] = complete - accuracy(weights) + 1e-6 * float(probabilities[row, k])
        found[row, list(excluded)] = -2.0
        weights[row] = 0
        weights[row, int(found[row].argmax())] = 1
    return found
