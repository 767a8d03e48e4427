"""A run that may take so many seconds has as many epochs as fit into them, by estimates and then by what they take."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from asose_fast.bounds import MOST_EPOCHS
from asose_fast.engine.phases import Phase, rescaled
from asose_fast.engine.record import Record

TOLERANCE = 0.05
"""A plan stays where what is left of it misses what is left of the time by no larger share."""
RECENT = 5
"""An epoch is expected to take the median of the later half of those before it, and of so many at least."""


@dataclasses.dataclass
class Deadline:
    """A run ends at about this time, which it has counted from its start, without the time between interruptions."""

    seconds: float
    """The run may take so long in all."""
    after: float
    """What comes after the last epoch takes about so long."""
    shares: dict[str, int]
    """The epochs of the phases are in these proportions, by name."""
    least: dict[str, int]
    """Each phase has so many epochs at least."""
    estimates: dict[str, float]
    """An epoch of each phase was estimated to take so many seconds."""
    spent: float = 0.0
    """Earlier processes of the run have taken so long."""
    first: float | None = None
    """The run had taken so long when its first epoch began."""
    began: float = dataclasses.field(default_factory=lambda: time.monotonic())
    """This process has counted the run's time since then (time.monotonic)."""

    @property
    def elapsed(self) -> float:
        """Returns the seconds that the run has taken so far."""
        return self.spent + time.monotonic() - self.began

    def state_dict(self) -> dict[str, Any]:
        """Returns the arguments of a deadline that goes on with the time."""
        values = {**dataclasses.asdict(self), "spent": self.elapsed}
        return {name: value for name, value in values.items() if name != "began"}

    def start(self) -> None:
        """Notes that the first epoch begins, or goes on."""
        if self.first is None:
            self.first = self.elapsed

    def plan(self, phases: Sequence[Phase]) -> list[int]:
        """Returns the epochs of all phases before the first of them: what the estimates let fit.

        Raises ValueError where the least of each takes too long.
        """
        shortest = sum(self.least[name] * seconds for name, seconds in self.estimates.items())
        if shortest > self._left:
            before, least = self.elapsed, math.ceil(self.elapsed + shortest + self.after)
            raise ValueError(
                f"seconds must be at least {least} here, got {self.seconds:g}: what comes before the first epoch has "
                f"taken {before:.1f}, the shortest phases take about {shortest:.1f}, and what comes after them "
                f"{self.after:.1f}"
            )
        return self._fitting(phases, [self.estimates[phase.name] for phase in phases])

    def plan_again(self, phases: Sequence[Phase], history: Sequence[Record]) -> list[int]:
        """Returns the epochs of all phases at the end of an epoch, the last of `history`, which says `elapsed` of each.

        The phases that have not begun are planned again where one of them is next, and the last phase after each of its
        epochs. All of them keep their `least`, however late it is. What is nearly in time (`TOLERANCE`) stays.
        """
        epochs, done = [phase.epochs for phase in phases], len(history)
        here = next((k for k, phase in enumerate(phases) if phase.end > done), None)
        if here is None:
            return epochs
        begun, rest = done - phases[here].first, phases[here:]
        if begun and len(rest) > 1:
            return epochs
        seconds = [self._expected(phase, phases, history) for phase in rest]
        left = sum(phase.epochs * own for phase, own in zip(rest, seconds, strict=True)) - begun * seconds[0]
        spare = self._left - left
        if -TOLERANCE * left <= spare < seconds[-1] + TOLERANCE * left:
            return epochs
        fitting = self._fitting(rest, seconds)
        return [*epochs[:here], begun + fitting[0], *fitting[1:]]

    @property
    def _left(self) -> float:
        return self.seconds - self.after - self.elapsed

    def _fitting(self, phases: Sequence[Phase], seconds: Sequence[float]) -> list[int]:
        """Returns the most epochs in proportion, but `least` of each, that fit into what is left, if any do."""
        names = [phase.name for phase in phases]

        def lengths(total: int) -> list[int]:
            proportional = rescaled([self.shares[name] for name in names], total)
            return [max(own, self.least[name]) for name, own in zip(names, proportional, strict=True)]

        def taken(total: int) -> float:
            return sum(epochs * own for epochs, own in zip(lengths(total), seconds, strict=True))

        left, least = self._left, len(names)
        most = least
        while most < MOST_EPOCHS and taken(most) <= left:
            most = min(2 * most, MOST_EPOCHS)
        fitting = least + bisect_right(range(least, most + 1), left, key=taken) - 1
        return lengths(max(least, fitting))

    def _expected(self, phase: Phase, phases: Sequence[Phase], history: Sequence[Record]) -> float:
        """Returns the seconds that an epoch of `phase` is expected to take, with evaluation and checkpoint."""
        ends: list[float] = [self.first or 0.0, *(record["elapsed"] for record in history)]
        took = [end - start for start, end in itertools.pairwise(ends)]
        if own := took[phase.first : phase.end]:
            return _usual(own)
        estimated = [self.estimates[there.name] for there in phases for _ in range(there.epochs)]
        return self.estimates[phase.name] * _usual([real / guess for real, guess in zip(took, estimated, strict=False)])


def _usual(seconds: Sequence[float]) -> float:
    return statistics.median(seconds[-max(RECENT, len(seconds) // 2) :])


def describe(planned: dict[str, int]) -> list[str]:
    """Says that a run was planned again, so many epochs by phase; nothing for no plan."""
    return [f"planned again for the time that is left: {worded(planned)}"] if planned else []


def worded(planned: dict[str, int]) -> str:
    """Returns the epochs by phase in words."""
    return ", ".join(f"{epochs} {name}" for name, epochs in planned.items()) + " epochs"
