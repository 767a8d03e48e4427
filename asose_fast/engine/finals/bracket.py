"""Successive halving says whose turn it is to be trained, and who goes (Jamieson and Talwalkar, arXiv 1502.07943)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple


class Rung(NamedTuple):
    """So many finalists are trained in turn in this part of the finals."""

    finalists: int
    rounds: int
    """Each of them takes so many steps."""

    @property
    def steps(self) -> int:
        """All of them together take so many steps."""
        return self.finalists * self.rounds


def least_steps(finalists: int) -> int:
    """Returns how many steps the finals of so many networks take at least."""
    return (finalists - 1).bit_length() * finalists


def rungs(finalists: int, steps: int) -> list[Rung]:
    """Divides `steps` among rungs of m, m/2, ..., 2 finalists, halves rounded up.

    Every rung gets an equal share of the steps that those before it have left, and each of its finalists an equal one
    of that, in whole steps. What is left after the last rung goes to the winner, a rung of one.

    Raises ValueError where a rung would have no step.
    """
    found: list[Rung] = []
    count = (finalists - 1).bit_length()
    if steps < (least := least_steps(finalists)):
        raise ValueError(
            f"finals of {finalists} networks take {least} steps or more, and there are {steps}: give "
            "finals_epochs more, or finals_paths less"
        )
    for rung in range(count):
        found.append(Rung(finalists, steps // ((count - rung) * finalists)))
        steps -= found[-1].steps
        finalists = (finalists + 1) // 2
    return [*found, Rung(1, steps)] if steps else found


class Turn(NamedTuple):
    """One step of the finals."""

    rung: int
    round: int
    """So many batches have come before, since the finals began. All finalists of a rung see the same ones."""
    left: int
    """So many finalists have not seen the batch yet, the present one included."""
    finalist: int
    """It is the turn of this one."""
    ends: bool
    """The rung ends with this step."""


@dataclasses.dataclass
class Bracket:
    """Finalists are numbered from 0: the more probable first, or as they were drawn."""

    rungs: Sequence[Rung]
    standing: list[int]
    """These are still in, the best of the last rung first."""
    done: int = 0
    """So many steps have been taken."""

    @staticmethod
    def begin(finalists: int, steps: int) -> Bracket:
        """All are in. Raises ValueError as `rungs` does."""
        return Bracket(rungs(finalists, steps), list(range(finalists)))

    @property
    def turn(self) -> Turn:
        """Returns the next step. Raises IndexError where all have been taken."""
        here, rounds = self.done, 0
        for number, rung in enumerate(self.rungs):
            if here < rung.steps:
                turn, seat = divmod(here, rung.finalists)
                left, ends = rung.finalists - seat, here == rung.steps - 1
                return Turn(number, rounds + turn, left, self.standing[seat], ends)
            here, rounds = here - rung.steps, rounds + rung.rounds
        raise IndexError(f"the finals have {self.done} steps, and all have been taken")

    def close(self, losses: dict[int, float]) -> list[int]:
        """Keeps the half with the smaller losses, rounded up; of equal ones the first stays.

        A loss that is not finite counts as the largest. Returns all that were in, the best first.
        """
        ranking = sorted(losses, key=lambda k: (losses[k] if math.isfinite(losses[k]) else math.inf, k))
        self.standing = ranking[: (len(ranking) + 1) // 2]
        return ranking
