"""Whether theirs and ours do the same work, in float64, where rounding hides nothing."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch

from benchmarks.peers.ours import Ours, load
from benchmarks.peers.peer import Peer


class Agreement(NamedTuple):
    """How near they come."""

    theirs: float
    ours: float
    """The losses."""
    gradient: float
    """Difference of the gradients, of the norm of theirs."""
    weights: float
    """The same of the weights after both steps."""

    @staticmethod
    def of(theirs: Peer, ours: Ours) -> Agreement:
        """Has both compute in float64, draw the same, and take their steps."""
        found = []
        for one in (theirs, ours):
            one.double()
            torch.manual_seed(0)
            found.append(one.gradients())
        for one in (theirs, ours):
            torch.manual_seed(1)
            one.step()
        (loss, gradient), (mine, own) = found
        expected = copy.deepcopy(ours.network)
        load(theirs, expected)
        weights = [torch.cat([p.flatten() for p in network.parameters()]) for network in (expected, ours.network)]
        return Agreement(loss.item(), mine.item(), _difference(gradient, own), _difference(*weights))

    def is_close(self) -> bool:
        """Whether both did the same work."""
        return max(abs(1 - self.ours / self.theirs), self.gradient, self.weights) < 1e-9


def _difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    return ((expected - found).norm() / expected.norm()).item()
