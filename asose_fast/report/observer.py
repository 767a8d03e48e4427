"""An observer keeps the report of a run up to date while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from asose_fast.engine.loop import RunState
from asose_fast.engine.observer import Observer
from asose_fast.engine.processes import ProcessLostError
from asose_fast.engine.record import Record
from asose_fast.engine.state import SearchState
from asose_fast.store.checkpoint import write_atomically
from asose_fast.store.provenance import Provenance

if TYPE_CHECKING:
    from asose_fast.report.run import Choice, Run

EVERY = 10.0
"""At least so many seconds lie between two writes."""
SHARE = 0.02
"""At most this share of a run's time goes into its report."""
PATIENCE = 10.0
"""The next report may take so many times as long to follow as the last one took. A run of which none comes was
killed."""


class Reported(RunState, Protocol):
    """A report is of this: the state of a search or of a training from scratch."""

    def provenance(self) -> Provenance:
        """Returns with what the run is computed, and on what."""


class ReportObserver(Observer):
    """Writes `report.html` at the ends of epochs, every `EVERY` seconds at most, and when the run ends.

    Whatever fails here is told once and changes nothing in the run. What draws is imported at the first write.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None], every: float = EVERY) -> None:
        self.path, self.warn, self.every = folder / "report.html", warn, every
        self._due, self._written = 0.0, time.monotonic()
        self._told = False

    def on_epoch_end(self, state: Reported, record: Record) -> None:
        started = time.monotonic()
        if started < self._due:
            return
        within = PATIENCE * max(self.every, started - self._written)
        self._write(lambda: _running(state, self.path.parent, within))
        self._written = ended = time.monotonic()
        self._due = ended + max(self.every, (ended - started) / SHARE)

    @contextmanager
    def to_the_end(self, state: Reported) -> Iterator[None]:
        """Writes the report of what the run folder holds in the end, however the block ends.

        But not where another process is lost: torchrun is about to end this one too, and its error is to be told first.
        """
        try:
            yield
        except ProcessLostError:
            raise
        except BaseException:
            self._told = True  # of an error, the run itself tells
            self._write(lambda: _ended(state, self.path.parent))
            raise
        self._write(lambda: _ended(state, self.path.parent))

    def _write(self, found: Callable[[], Run]) -> None:
        try:
            from asose_fast.report import page

            write_atomically(self.path, page.render(found()).encode(errors="replace"))
        except Exception as error:  # a report is worth less than the run
            if not self._told:
                self.warn(f"there is no new report: {str(error) or type(error).__name__}; the run goes on without")
            self._told = True


def _running(state: Reported, folder: Path, next_within: float) -> Run:
    from asose_fast.report.epochs import parse
    from asose_fast.report.run import Run

    return Run(
        folder.resolve().name,
        "running",
        place=str(folder),
        epochs=[epoch for record in state.history if (epoch := parse(record)) is not None],
        config=state.settings,
        provenance=state.provenance(),
        choice=_choice(state),
        shortcomings=state.shortcomings if isinstance(state, SearchState) else [],
        next_within=next_within,
    )


def _ended(state: Reported, folder: Path) -> Run:
    from asose_fast.report.run import read

    run = read(folder, checkpoints=False)
    run.provenance = state.provenance()
    run.choice = _choice(state)
    if isinstance(state, SearchState):
        run.shortcomings = list(state.shortcomings)
    return run


def _choice(state: Reported) -> Choice | None:
    from asose_fast.report.run import choice

    return choice(state.selector) if isinstance(state, SearchState) else None
