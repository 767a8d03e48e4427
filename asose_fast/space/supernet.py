"""A search asks this of any network that it searches, and of those that are derived from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn


class SupernetSpec(Protocol):
    """A spec describes a network in plain values."""

    @property
    def rows(self) -> int:
        """The architecture's tables have so many rows, one for each choice."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the description in plain values."""


class Supernet(nn.Module):
    """A supernet is a module with choices in it. Alpha has a row for each, and a column for each candidate.

    The search knows nothing else of a network. This is a base class and no protocol because optimizers, norms and
    checkpoints ask for an `nn.Module`, which no protocol can be.
    """

    @property
    def spec(self) -> SupernetSpec:
        """The network is this now, grown or derived."""
        raise NotImplementedError

    @property
    def operations(self) -> tuple[str, ...]:
        """A derived network has these candidates, row by row."""
        raise NotImplementedError

    def choose(self, scores: Tensor) -> list[int]:
        """Returns the path of the architecture of largest total score; `scores` is (L, K)."""
        raise NotImplementedError

    def derive(self, path: Sequence[int]) -> Supernet:
        """Returns the network with candidate `path[l]` alone in row l. Its parameters are this network's own."""
        raise NotImplementedError
