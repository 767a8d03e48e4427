"""What a run tells to those who watch it."""

from __future__ import annotations

from collections.abc import Sequence
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


def tell(observers: Sequence[Observer], event: str, *about: Any) -> None:
    """Calls the method `event` of every observer that has it."""
    for observer in observers:
        if method := getattr(observer, event, None):
            method(*about)
