"""Alpha of mixed operations that have different candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.config import SelectorConfig
from asose_fast.engine.alpha.selector import CLOSED, Selector
from asose_fast.ops.arch_weights import MAX_OPS
from asose_fast.space.custom import CustomNetwork


class MaskedSelector(Selector):
    """Rows of one length, K, the number of all candidates' names; the logits of what a row does not have are ln 0.

    So such a candidate has weight 0, is never sampled and never leads, its logit gets no gradient, and of the others
    every weight and probability is what it would be in a row of their own.
    """

    def __init__(self, config: SelectorConfig, network: CustomNetwork, seed: int, device: torch.device) -> None:
        """Raises ValueError as Selector does, and where a fixed-skip warmup finds a row without skip_connect."""
        if len(network.candidates) > MAX_OPS:
            raise ValueError(
                f"the mixed operations have candidates of {len(network.candidates)} names in all, {MAX_OPS} at most: "
                "give the same name to candidates of the same kind"
            )
        without = [name for name, op in network.mixed.items() if "skip_connect" not in op.ops]
        if config.warmup == "skip" and without:
            raise ValueError(f"warmup: skip needs the candidate skip_connect everywhere, {without[0]!r} has none")
        closed = torch.where(network.available, 0.0, CLOSED).to(device)
        self._closed = None if network.available.all() else closed
        super().__init__(config, network.candidates, len(network.mixed), seed, device)
        with torch.no_grad():
            for row, op in zip(self.alpha, network.mixed.values(), strict=True):
                for name, value in (op.logits or {}).items():
                    row[network.candidates.index(name)] = value

    def logits(self) -> Tensor:
        table = super().logits()
        return table if self._closed is None else table + self._closed

    def equal_logits(self) -> Tensor:
        table = super().equal_logits()
        return table if self._closed is None else table + self._closed
