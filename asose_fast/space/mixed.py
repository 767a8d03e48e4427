"""The mixed operation: K candidates on one input, and plans that run no more of them than a step needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from asose_fast.ops import mixed_sum, registry
from asose_fast.ops.mixed_sum import accumulation_dtype
from asose_fast.space.candidates import Zero, build_candidate
from asose_fast.space.stacked import Branches, computes, run


class MixedOp(nn.Module):
    """y = sum_k w_k o_k(x) over the candidates o_k, blended with a shortcut s by a gain g where one is given:
    y = g * sum_k w_k o_k(x) + (1 - g) * s.

    What runs depends on what the step needs (docs/kernels.md):

    - sampled, `index`: the candidate `index` alone; the value and the weight gradients are those of a hard sample.
    - straight-through, both: all candidates; those whose weight is 0 contribute no gradient to x or to their parameters
      and run outside autograd. Gives `dL/dw_k = <dL/dy, o_k(x)>` for every k.
    - soft, `weights`: all candidates, all gradients.
    - some, `kept` besides: of either, only the candidates `kept`, the weights of the others counting as 0 and getting
      no gradient.

    All but the first run the candidates one by one or, with the same results up to rounding, as the stacked branches of
    `asose_fast.space.stacked`: always where `fused` is True, never where it is False, and where it pays with "auto".
    These keep less for backward with `memory` "recompute", and take longer.
    """

    def __init__(
        self,
        candidates: Sequence[str],
        channels: int,
        stride: int,
        *,
        fused: bool | Literal["auto"] = "auto",
        memory: Literal["save", "recompute"] = "save",
    ) -> None:
        """Raises ValueError for an unknown candidate or none at all."""
        super().__init__()
        self.stride, self.fused, self.memory = stride, fused, memory
        if not candidates:
            raise ValueError("a mixed operation needs at least one candidate")
        self.ops = nn.ModuleDict({name: build_candidate(name, channels, stride) for name in candidates})

    def forward(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        index: int | None = None,
        kept: tuple[int, ...] | None = None,
        *,
        gain: Tensor | None = None,
        shortcut: Tensor | None = None,
    ) -> Tensor:
        """Runs one plan.

        Args:
            x: (N, C, H, W).
            weights: (K,) architecture weights; with `index`, a one-hot straight-through sample.
            index: the sampled candidate; may be left out where there is only one.
            kept: the candidates to run, with `weights`; None: all. Has `index` in it where there is one.
            gain: scalar g, or None for g = 1.
            shortcut: s, in the shape of y; x itself where it is left out.
        """
        shortcut = x if shortcut is None else shortcut
        if weights is None:
            op = self._candidate(index)
            if gain is not None and shortcut is x and computes(op, nn.Identity):
                return x
            if gain is not None and computes(op, Zero):
                return mixed_sum([shortcut], (1 - gain).to(accumulation_dtype(x.dtype)).reshape(1))
            if branches := self._stacked(x, [op]):
                one = x.new_ones(1, dtype=accumulation_dtype(x.dtype))
                share = None if gain is None else 1 - gain  # a gain of 0 is false, and not absent
                return branches.mix(x, one if gain is None else gain * one, None, shortcut, share)
            y: Tensor = op(x)
            return y if gain is None else torch.lerp(shortcut, y.to(shortcut.dtype), gain.to(shortcut.dtype))
        ops, share = list(self.ops.values()), None
        if kept is not None:
            ops, weights = [ops[k] for k in kept], torch.stack([weights[k] for k in kept])
            index = None if index is None else kept.index(index)
        if gain is not None:
            weights, share = gain * weights, 1 - gain
        if branches := self._stacked(x, ops):
            return branches.mix(x, weights, index, shortcut, share)
        outputs = [run(op, x, tracked=index in (None, k)) for k, op in enumerate(ops)]
        if share is not None:
            outputs.append(
                shortcut.view_as(shortcut)
            )  # skip_connect gives x too, and torch.compile takes no tensor twice
            weights = torch.cat([weights, share.reshape(1)])
        return mixed_sum(outputs, weights)

    def _stacked(self, x: Tensor, ops: list[nn.Module]) -> Branches | None:
        """The stacked branches of candidates, where they are to be used."""
        if not self.fused or torch.compiler.is_compiling():
            return None
        branches = Branches.of(ops, self.stride, self.memory == "recompute")
        if not branches.folded:
            return None
        if self.fused == "auto":
            # The fused operators are compiled for the CPU alone; elsewhere they are no faster than the modules.
            if registry.why_not("separable", "cpu", x.device.type, x.dtype):
                return None
            if not branches.worthwhile(x):
                return None
        return branches

    def _candidate(self, index: int | None) -> nn.Module:
        ops = list(self.ops.values())
        if index is None:
            if len(ops) > 1:
                raise ValueError(f"a mixed operation of {len(ops)} candidates needs weights or the index of one")
            index = 0
        return ops[index]
