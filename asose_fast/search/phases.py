"""The four phases and how many epochs each takes (docs/concepts.md)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from asose_fast.config import PhaseConfig

PhaseName = Literal["warmup", "search", "growth", "optimize"]
PHASES: tuple[PhaseName, ...] = ("warmup", "search", "growth", "optimize")
SEARCHING: tuple[PhaseName, ...] = ("search", "growth")
"""The phases that update the architecture."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a run; epochs count from the start of the run."""

    name: PhaseName
    first: int
    epochs: int

    @property
    def end(self) -> int:
        """The first epoch that no longer belongs to the phase."""
        return self.first + self.epochs

    @property
    def searching(self) -> bool:
        """Whether the architecture is updated."""
        return self.name in SEARCHING


def plan(config: PhaseConfig) -> tuple[Phase, ...]:
    """The phases of a run. Raises ValueError where one would have no epoch."""
    lengths = [config.warmup_epochs, config.search_epochs, config.growth_epochs, config.optimize_epochs]
    if min(lengths) < 1:
        raise ValueError(f"every phase needs at least one epoch, got {dict(zip(PHASES, lengths, strict=True))}")
    if config.epochs is not None:
        lengths = _rescale(lengths, config.epochs)
    firsts = [sum(lengths[:i]) for i in range(len(lengths))]
    return tuple(Phase(*phase) for phase in zip(PHASES, firsts, lengths, strict=True))


def phase_at(phases: tuple[Phase, ...], epoch: int) -> Phase:
    """The phase that an epoch belongs to."""
    return next(phase for phase in phases if epoch < phase.end)


def _rescale(lengths: list[int], total: int) -> list[int]:
    """Lengths in proportion, at least 1 each, that add up to `total`; what rounding leaves goes to the largest loss."""
    if total < len(lengths):
        raise ValueError(f"epochs must be at least {len(lengths)}, one for each phase; got {total}")
    exact = [length * total / sum(lengths) for length in lengths]
    result = [max(1, int(x)) for x in exact]
    while sum(result) != total:
        step = 1 if sum(result) < total else -1
        movable = [i for i in range(len(result)) if result[i] + step >= 1]
        result[max(movable, key=lambda i: step * (exact[i] - result[i]))] += step
    return result
