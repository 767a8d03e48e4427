"""A tracker tells a service for experiments of a run: its settings, the numbers of every epoch, and the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asose_fast.command import warn
from asose_fast.engine.loop import RunState
from asose_fast.engine.observer import Observer
from asose_fast.engine.record import Record
from asose_fast.observe.scalars import scalars

RESULT = ("test_accuracy", "parameters", "flops")
"""These numbers of a summary are told when the run has ended."""


class Tracker(Observer):
    """Tells what happens, and does not end a run for a service that fails: it warns once, and tells no more.

    Attributes:
        service: which one it is.
        identity: what the service calls the run, by which a resumed one goes on under the same name.
        place: where to look at it.
    """

    service: str
    identity: str
    place: str

    def __init__(self) -> None:
        self._failed, self._done = False, False

    def on_epoch_end(self, state: RunState, record: Record) -> None:
        self._try(lambda: self.tell(scalars(record), record["epoch"]))

    def result(self, summary: Mapping[str, Any]) -> None:
        """Tells what came out, the numbers `RESULT` of a summary. The run counts as finished from here on."""
        self._done = True
        self._try(lambda: self.tell_result({name: summary[name] for name in RESULT if summary.get(name) is not None}))

    def close(self) -> None:
        """Says that the run has ended, or was interrupted."""
        self._try(lambda: self.end(self._done))

    def _try(self, call: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            call()
        except Exception as error:  # a service raises what it likes, and a run is worth more than its curve
            self._failed = True
            warn(f"{self.service} is told no more of this run: {error}")

    def tell(self, numbers: Mapping[str, float], epoch: int) -> None:
        """Sends the numbers of an epoch, which are told again where a run goes on from before its end."""
        raise NotImplementedError

    def tell_result(self, numbers: Mapping[str, float]) -> None:
        """Sends those of the result."""
        raise NotImplementedError

    def end(self, done: bool) -> None:
        """Sends what is left, and that the run has ended."""
        raise NotImplementedError
