"""What a run tells to those who watch it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from asose_fast.engine.phases import Phase
from asose_fast.engine.record import Record
from asose_fast.engine.state import SearchState


class Observer:
    """Is told what happens in a run: console, metrics file, TensorBoard, or a class of yours that overrides what it
    needs. All methods do nothing here.

    They are called between steps, so that an observer may look at everything in the state, and change what it knows
    how to change: `state.selector.temperature`, say. What one raises ends the run. The order, for every phase:

        on_phase_start, then for every epoch: on_epoch_start, (on_step, maybe on_alpha_step before it), on_epoch_end

    A run that is resumed within a phase begins with on_epoch_start. on_run_end comes when the last phase is over.
    """

    def on_phase_start(self, state: SearchState, phase: Phase) -> None:
        """A phase begins; its temperature is set, and a derived network is in place."""

    def on_epoch_start(self, state: SearchState, phase: Phase) -> None:
        """An epoch begins or, where a run is resumed, goes on."""

    def on_alpha_step(self, state: SearchState) -> None:
        """Alpha was updated."""

    def on_step(self, state: SearchState) -> None:
        """A training batch is done, the alpha step that followed it included."""

    def on_epoch_end(self, state: SearchState, record: Record) -> None:
        """The epoch's metrics are in `record`, the last of `state.history`; the checkpoint is not yet written."""

    def on_run_end(self, state: SearchState) -> None:
        """All phases are over."""


EVENTS = tuple(name for name in vars(Observer) if name.startswith("on_"))
"""Observers have methods of these names."""


def checked(observers: Iterable[Observer]) -> list[Observer]:
    """Returns the observers as a list. They need not be of the class `Observer`, but must have one of its methods.

    Raises TypeError for what is no observer, ValueError for a method `on_...` that nothing would call.
    """
    if not isinstance(observers, Iterable):
        raise TypeError(f"observers must be a list, got {_named(observers)}: give [observer]")
    found = list(observers)
    for observer in found:
        _check(observer)
    return found


def _check(observer: object) -> None:
    name = _named(observer)
    if isinstance(observer, type):
        raise TypeError(f"an observer must be an object, got {name}: give {observer.__name__}()")
    for method in dir(observer):
        if method.startswith("on_") and method not in EVENTS and callable(getattr(observer, method, None)):
            nearest = difflib.get_close_matches(method, EVENTS, n=1, cutoff=0.0)[0]
            raise ValueError(f"the method {method} of {name} is of no event and is never called: is {nearest} meant?")
    if not any(callable(getattr(observer, event, None)) for event in EVENTS):
        raise TypeError(f"an observer must have one of the methods {', '.join(EVENTS)}, got {name}")


def _named(value: object) -> str:
    """Says what was given where observers are asked for."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    called = getattr(value, "__name__", None)
    return f"the function {called}" if callable(value) and called else f"an object of the class {type(value).__name__}"


def tell(observers: Sequence[Observer], event: str, *about: Any) -> None:
    """Calls the method `event` of every observer that has it."""
    for observer in observers:
        if method := getattr(observer, event, None):
            method(*about)
