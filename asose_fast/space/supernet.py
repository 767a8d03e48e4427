"""What a search asks of any network that it searches, and of those that are derived from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class SupernetSpec(Protocol):
    """The plain description of a network."""

    @property
    def rows(self) -> int:
        """Rows of the architecture's tables, one for each choice."""

    def to_dict(self) -> dict[str, Any]:
        """The description in plain values."""


class Supernet(nn.Module):
    """A module with choices in it: alpha has a row for each, and a column for each candidate.

    The search knows nothing else of a network. This is a base class and no protocol because optimizers, norms and
    checkpoints ask for an `nn.Module`, which no protocol can be.
    """

    @property
    def spec(self) -> SupernetSpec:
        """What the network is now, grown or derived."""
        raise NotImplementedError

    @property
    def operations(self) -> tuple[str, ...]:
        """The chosen candidate of every row, of a derived network."""
        raise NotImplementedError

    def choose(self, scores: Tensor) -> list[int]:
        """The path of the architecture of largest total score; `scores` is (L, K)."""
        raise NotImplementedError

    def derive(self, path: Sequence[int]) -> Supernet:
        """The network with candidate `path[l]` alone in row l, whose parameters are this network's own."""
        raise NotImplementedError
