"""Every training has this in common: epochs of steps, which are watched, saved and stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from asose_fast.config import CheckpointConfig
from asose_fast.engine.cadence import Cadence
from asose_fast.engine.deadline import Deadline
from asose_fast.engine.observer import Observer, checked, tell
from asose_fast.engine.phases import Phase, phase_at
from asose_fast.engine.processes import Processes
from asose_fast.engine.progress import Progress
from asose_fast.engine.record import Record
from asose_fast.engine.step.meter import Meter
from asose_fast.engine.task import Splits
from asose_fast.store import checkpoint, checkpoint_folder
from asose_fast.store.checkpoint_folder import holds_checkpoints


class InterruptedRunError(Exception):
    """The run was asked to stop and has written a checkpoint."""

    def __init__(self, reason: signal.Signals, message: str) -> None:
        super().__init__(message)
        self.signal = reason


class RunState(Protocol):
    """A loop moves this on and tells it to those who watch: the state of a search or of a training from scratch."""

    device: torch.device
    progress: Progress
    processes: Processes
    weight_meter: Meter
    history: list[Record]
    phases: tuple[Phase, ...]
    restored: bool
    """It stands where a checkpoint did."""
    deadline: Deadline | None
    """The run ends at about this time; None: it takes as long as its epochs do."""

    @property
    def data(self) -> Splits:
        """The run has these batches."""

    @property
    def epochs(self) -> int:
        """The whole run has so many epochs."""

    @property
    def settings(self) -> dict[str, Any]:
        """These settings have an effect."""

    def plan_again(self, epochs: Sequence[int]) -> None:
        """Gives the phases so many epochs."""

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the rest of the run depends on."""


State = TypeVar("State", bound=RunState)


class Loop(Generic[State]):
    """Moves a state on through the epochs of its phases, and can stop anywhere in between.

    A training says what its batches and steps are, what must hold of a state that is saved, and what ends an epoch.
    """

    def __init__(
        self,
        state: State,
        config: CheckpointConfig,
        folder: str | Path | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        """Begins nothing yet.

        Args:
            state: where the run stands; of several processes each has its own, and the first alone writes files.
            config: when checkpoints are due within an epoch, and how many are kept.
            folder: checkpoints go to its `checkpoints`. None: none are written.
            observers: are told of every step and epoch.

        Raises TypeError or ValueError for what is no observer.
        """
        self.state, self.observers = state, checked(observers)
        self.checkpoints = None if folder is None else Path(folder) / "checkpoints"
        self.cadence, self._saved = Cadence(config), False

    def run(self) -> None:
        """Goes on from the present state to the end of the last phase.

        Raises InterruptedRunError or CheckpointError; what was checkpointed stays. Raises FileExistsError for a state
        that begins in the folder of another run.
        """
        state = self.state
        self._require_own_folder()
        if state.deadline:
            state.deadline.start()
        while state.progress.epoch < state.epochs:
            phase = phase_at(state.phases, state.progress.epoch)
            if state.progress.phase != phase.name:
                self._enter(phase)
                tell(self.observers, "on_phase_start", state, phase)
            tell(self.observers, "on_epoch_start", state, phase)
            self._train_epoch(phase)
            self._end_epoch(phase)
        tell(self.observers, "on_run_end", state)

    def _enter(self, phase: Phase) -> None:
        """Prepares the state for a phase that begins."""
        self.state.progress.phase = phase.name

    def _batches(self, phase: Phase) -> Iterator[tuple[Any, Any]]:
        """Prepares an epoch, and gives its batches from the present step on."""
        raise NotImplementedError

    def _step(self, phase: Phase, x: Any, y: Any) -> None:
        """Does what is to be done with a training batch, and counts it."""
        raise NotImplementedError

    def _require_good(self, phase: Phase) -> None:
        """Raises an error for a state that must not be saved."""

    def _end_epoch(self, phase: Phase) -> None:
        """Measures the epoch, and closes it (`_close_epoch`)."""
        raise NotImplementedError

    def _train_epoch(self, phase: Phase) -> None:
        state, progress = self.state, self.state.progress
        started, before = time.perf_counter(), progress.epoch_seconds
        for x, y in self._batches(phase):
            self._step(phase, x, y)
            progress.epoch_seconds = before + time.perf_counter() - started
            tell(self.observers, "on_step", state)
            started += self._save_if_due(phase)

    def _save_if_due(self, phase: Phase) -> float:
        """Writes a checkpoint within an epoch where it is time for one, and raises InterruptedRunError where the run is
        to stop. Returns the seconds that it took."""
        state, began = self.state, time.perf_counter()
        reason = state.processes.stopping
        if reason is None and not any(state.processes.total(self.cadence.due())):
            return 0.0
        self._require_good(phase)
        self.save("last")
        if reason is not None:
            where = f"epoch {state.progress.epoch + 1} of {state.epochs}, step {state.progress.step}"
            raise InterruptedRunError(reason, f"stopped by {reason.name} in phase {phase.name}, {where}")
        return time.perf_counter() - began

    def _close_epoch(self, record: Record) -> None:
        """Takes the record of an epoch in, makes room for the next one, and tells who watches.

        The record of a run with a deadline also has `elapsed`, its seconds so far, and `planned`, the epochs of all
        phases where they were planned again.
        """
        state, progress = self.state, self.state.progress
        state.history.append(record)
        progress.epoch, progress.step, progress.epoch_seconds = progress.epoch + 1, 0, 0.0
        state.weight_meter.reset()
        if state.deadline:
            self._keep_to(state.deadline, record)
        tell(self.observers, "on_epoch_end", state, record)

    def _keep_to(self, deadline: Deadline, record: Record) -> None:
        """Plans the rest of the run again after an epoch, by the clock of the first process."""
        state = self.state

        def decided() -> tuple[float, list[int]]:
            record["elapsed"] = deadline.elapsed
            return record["elapsed"], deadline.plan_again(state.phases, state.history)

        record["elapsed"], epochs = state.processes.from_first(decided)
        if epochs != [phase.epochs for phase in state.phases]:
            state.plan_again(epochs)
            record["planned"] = {phase.name: phase.epochs for phase in state.phases}

    def save(self, name: str) -> None:
        """Has the first process write `checkpoints/<name>.pt`, for which the others wait.

        "last" is also kept under its epoch and step, with as many before it as configured.

        Raises CheckpointError, and FileExistsError as `run` does.
        """
        if self.checkpoints is not None:
            folder = self.checkpoints
            self.state.processes.from_first(lambda: self._write(folder, name))
        self._saved = True
        if name == "last":
            self.cadence.restart()

    def _write(self, folder: Path, name: str) -> None:
        self._require_own_folder()
        values, progress = self.state.state_dict(), self.state.progress
        folder.mkdir(parents=True, exist_ok=True)
        if name == "last":
            kept = self.cadence.config.checkpoints_kept
            checkpoint_folder.save_newest(folder, progress.epoch, progress.step, values, kept)
        else:
            checkpoint.save(folder / f"{name}.pt", values)

    def _require_own_folder(self) -> None:
        """Raises FileExistsError where a state that begins would write over the checkpoints of another run."""
        if self.checkpoints and not (self.state.restored or self._saved) and holds_checkpoints(self.checkpoints):
            raise FileExistsError(
                f"{self.checkpoints} holds a run: give a folder of its own, or go on with that run by "
                f"asose_fast.engine.resume.read({str(self.checkpoints.parent)!r}, print).restore(state, print)"
            )
