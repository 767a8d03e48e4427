"""This module estimates how long a run will still take, from the epochs that it has done."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from asose_fast.engine.phases import Phase, phase_at


class Left(NamedTuple):
    """So many seconds are left to the end of the present phase, and of the run."""

    phase: float
    run: float


def left(
    phases: tuple[Phase, ...], history: Sequence[dict[str, Any]], epoch: int, done: float, seconds: float
) -> Left | None:
    """Estimates what is left after `seconds` of epoch `epoch` (from 0), of which the share `done` is done.

    An epoch takes the median of the last five of its phase. One of a phase that has had none takes as long as the
    present one. In finals and optimize, which sample no more than warmup does, it takes as long as those of the warmup.
    None means that nothing is known.
    """
    here = phase_at(phases, epoch)
    present = _usual(history, here)
    if present is None and done > 0:
        present = seconds / done
    if present is None:
        return None
    rest = (here.end - epoch - done) * present
    warmup = _usual(history, phases[0])
    later = sum(
        phase.epochs * (warmup if phase.name in ("finals", "optimize") and warmup is not None else present)
        for phase in phases
        if phase.first >= here.end
    )
    return Left(rest, rest + later)


def _usual(history: Sequence[dict[str, Any]], phase: Phase) -> float | None:
    """Returns the usual seconds of an epoch of `phase`. `history` has the epochs from the first on, one a record."""
    seconds = [record["seconds"] for record in history[phase.first : phase.end]][-5:]
    return statistics.median(seconds) if seconds else None


def clock(seconds: float) -> str:
    """Writes seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
