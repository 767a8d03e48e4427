"""The mixed operation: K candidates on one input, and plans that run no more of them than a step needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asose_fast.ops import mixed_sum
from asose_fast.space.candidates import build_candidate


class MixedOp(nn.Module):
    """y = sum_k w_k o_k(x) over the candidates o_k, blended with the input by a gain g where one is given:
    y = g * sum_k w_k o_k(x) + (1 - g) * x.

    What runs depends on what the step needs (DESIGN section 5):

    ========================  =======================================================================================
    sampled: `index`          the candidate `index` alone; the value and the weight gradients are those of a hard sample
    straight-through: both    all candidates; those whose weight is 0 contribute no gradient to x or to their parameters
                              and run outside autograd. Gives dL/dw_k = <dL/dy, o_k(x)> for every k
    soft: `weights`           all candidates, all gradients
    ========================  =======================================================================================
    """

    def __init__(self, candidates: Sequence[str], channels: int, stride: int) -> None:
        """Raises ValueError for an unknown candidate or none at all."""
        super().__init__()
        if not candidates:
            raise ValueError("a mixed operation needs at least one candidate")
        self.ops = nn.ModuleDict({name: build_candidate(name, channels, stride) for name in candidates})

    def forward(
        self, x: Tensor, weights: Tensor | None = None, index: int | None = None, gain: Tensor | None = None
    ) -> Tensor:
        """Runs one plan.

        Args:
            x: (N, C, H, W).
            weights: (K,) architecture weights; with `index`, a one-hot straight-through sample.
            index: the sampled candidate; may be left out where there is only one.
            gain: scalar g, or None for g = 1.
        """
        if weights is None:
            y = self._candidate(index)(x)
            return y if gain is None else torch.lerp(x, y, gain.to(x.dtype))
        outputs = [self._run(op, x, tracked=index is None or index == k) for k, op in enumerate(self.ops.values())]
        if gain is not None:
            outputs.append(x.view_as(x))  # skip_connect gives x too, and torch.compile takes no tensor twice
            weights = torch.cat([gain * weights, (1 - gain).reshape(1)])
        return mixed_sum(outputs, weights)

    def _candidate(self, index: int | None) -> nn.Module:
        ops = list(self.ops.values())
        if index is None:
            if len(ops) > 1:
                raise ValueError(f"a mixed operation of {len(ops)} candidates needs weights or the index of one")
            index = 0
        return ops[index]

    @staticmethod
    def _run(op: nn.Module, x: Tensor, *, tracked: bool) -> Tensor:
        with torch.set_grad_enabled(tracked and torch.is_grad_enabled()):
            y: Tensor = op(x)
        return y if tracked else y.detach()  # skip_connect gives x itself, gradient and all
