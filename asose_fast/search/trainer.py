"""The loop of a search: epochs, the two kinds of step, and when the state is saved (docs/concepts.md)."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asose_fast import checkpoint, checkpoint_folder
from asose_fast.search.cadence import Cadence
from asose_fast.search.finite import diverged, gradient_check, loss_check, require_finite, watched
from asose_fast.search.graphs import GraphedSteps
from asose_fast.search.measure import measure
from asose_fast.search.observer import Observer, tell
from asose_fast.search.phases import Phase, phase_at
from asose_fast.search.processes import digest
from asose_fast.search.record import Record
from asose_fast.search.state import SearchState
from asose_fast.search.steps import Ahead
from asose_fast.search.sync_batch_norm import synchronise
from asose_fast.search.watch import Watch
from asose_fast.space.copying import deepcopy


class InterruptedRunError(Exception):
    """The run was asked to stop and has written a checkpoint."""

    def __init__(self, reason: signal.Signals, message: str) -> None:
        super().__init__(message)
        self.signal = reason


class Trainer:
    """Moves a search on from its present state to the derived network, and can stop anywhere in between."""

    def __init__(self, state: SearchState, folder: Path | None = None, observers: Sequence[Observer] = ()) -> None:
        """Raises ValueError for a search that cannot run.

        Args:
            state: where the search stands; of several processes each has its own, and the first alone writes files.
            folder: the run folder; checkpoints go to its `checkpoints`. None: none are written.
            observers: told of every step and epoch.
        """
        self.state, self.observers = state, list(observers)
        self.checkpoints = None if folder is None else folder / "checkpoints"
        self.cadence, self.watch = Cadence(state.config), Watch()
        self.graphs = GraphedSteps(state.config, state.device, state.processes)
        state.task.check(state.network, state.processes)
        state.best_path()  # a budget that no network can keep is refused here

    def run(self) -> None:
        """Goes on from the present state to the end of the last phase.

        Raises SearchDivergedError, InterruptedRunError or CheckpointError; what was checkpointed stays. Processes that
        do not begin with the same data, settings and state raise ProcessesDifferError.
        """
        state = self.state
        given = {"data": state.data.digest, "configuration": digest(repr(state.config.to_dict()).encode())}
        state.processes.check_same(given, "all must be given the same")
        state.require_same()
        while state.progress.epoch < state.epochs:
            phase = phase_at(state.phases, state.progress.epoch)
            self._enter(phase)
            tell(self.observers, "on_epoch_start", state, phase)
            self._train_epoch(phase)
            self._end_epoch(phase)
        tell(self.observers, "on_run_end", state)

    def _enter(self, phase: Phase) -> None:
        state = self.state
        if state.progress.phase == phase.name:
            return
        path = None
        if phase.derives and not state.deriving:
            self.save("supernet")  # what `asose_fast.derive` goes on from
            path = state.final_path(state.config.derive_among)
        state.progress.phase = phase.name
        if phase.rules.temperature is not None:
            state.selector.temperature = phase.rules.temperature
        if phase.rules.noise:
            state.selector.perturb()
        if path is not None:
            state.derive(path)
        tell(self.observers, "on_phase_start", state, phase)

    def _train_epoch(self, phase: Phase) -> None:
        state, config = self.state, self.state.config
        progress, started, before = state.progress, time.perf_counter(), state.progress.epoch_seconds
        state.network.train()
        self.graphs.begin(state.network, phase.name)
        if config.sync_batch_norm and state.processes.count > 1:
            synchronise(state.network, state.processes)  # again in every epoch: a block may have grown since
        held_out = self._held_out_batches() if phase.searching else None
        options: dict[str, Any] = {"augment": config.augment, "part": state.processes.part}
        for x, y in state.data.train.batches(progress.epoch, start=progress.step, **options):
            alone = phase.rules.updates == "alpha"
            if not alone:
                self._weight_step(phase, x, y)
            progress.step += 1
            progress.since_alpha += phase.searching
            if held_out and (alone or progress.since_alpha == config.alpha_every - 1):
                self._alpha_step(phase, *next(held_out), Ahead(state.weight_optimizer, x, y))
                progress.since_alpha = 0
                tell(self.observers, "on_alpha_step", state)
            progress.epoch_seconds = before + time.perf_counter() - started
            tell(self.observers, "on_step", state)
            started += self._save_if_due(phase)

    def _held_out_batches(self) -> Iterator[tuple[Any, Any]]:
        """Endless shuffled validation batches for alpha steps, from where the last alpha step left off."""
        state = self.state
        epoch, start = divmod(state.progress.alpha_steps, state.data.valid.num_batches())
        options: dict[str, Any] = {"augment": state.config.augment, "part": state.processes.part}
        while True:
            yield from state.data.valid.batches(epoch, start=start, shuffle=True, **options)
            epoch, start = epoch + 1, 0

    def _weight_step(self, phase: Phase, x: Any, y: Any) -> None:
        state = self.state
        state.task.set_learning_rate(state.weight_optimizer, state.learning_rate(phase))
        path, mixture = None, None
        if not phase.derives:
            mixture, path = state.lookahead.weight(phase.mode)
            alpha_next = phase.searching and state.progress.since_alpha == state.config.alpha_every - 2
            state.lookahead.prepare("alpha" if alpha_next else "weight", phase.mode)
        check = loss_check(state, "loss", phase, x, path)
        result = self.graphs.weight_step(
            state.network,
            state.weight_optimizer,
            x,
            y,
            path,
            mixture=mixture,
            clip=state.config.gradient_clip,
            check=check,
            check_gradient=gradient_check(state, phase) if check else None,
            processes=state.processes,
            objective=state.task.objective,
            precision=state.config.precision,
        )
        state.weight_meter.add(result)
        if not check and not self.watch.finite(lambda: watched(state)):
            raise diverged(state, "a loss or alpha is not finite", phase, x, path)

    def _alpha_step(self, phase: Phase, x: Any, y: Any, ahead: Ahead) -> None:
        state = self.state
        draw = state.lookahead.alpha(phase.mode)
        check = loss_check(state, "loss of the alpha step", phase, x, draw.path)
        result = self.graphs.alpha_step(
            state.network,
            state.alpha_optimizer,
            x,
            y,
            draw,
            finish=state.estimator.finish,
            regularizers=state.regularizers,
            ahead=ahead if state.config.alpha_order == "second" else None,
            check=check,
            processes=state.processes,
            objective=state.task.objective,
            precision=state.config.precision,
        )
        state.alpha_meter.add(result)
        state.selector.cool()
        state.lookahead.prepare("weight", phase.mode)
        if check and not state.selector.logits().isfinite().all():
            raise diverged(state, "alpha is not finite", phase, x, draw.path)
        state.progress.alpha_steps += 1

    def _save_if_due(self, phase: Phase) -> float:
        """Writes a checkpoint within an epoch where it is time for one, and raises InterruptedRunError where the run is
        to stop. Returns the seconds that it took."""
        state, began = self.state, time.perf_counter()
        reason = state.processes.stopping
        if reason is None and not any(state.processes.total(self.cadence.due())):
            return 0.0
        require_finite(state, phase)
        state.require_same()
        self.save("last")
        if reason is not None:
            where = f"epoch {state.progress.epoch + 1} of {state.epochs}, step {state.progress.step}"
            raise InterruptedRunError(reason, f"stopped by {reason.name} in phase {phase.name}, {where}")
        return time.perf_counter() - began

    def _end_epoch(self, phase: Phase) -> None:
        state = self.state
        state.lookahead.forget()
        require_finite(state, phase)
        state.require_same()
        measured = measure(state, phase)
        record = state.processes.from_first(lambda: measured)  # times are not the same in all processes
        turned_back = self._turned_back(phase, record)
        if phase.grows and not turned_back and not state.guard.frozen:
            record["growth"] = state.grow_if_stalled(phase, record["valid_accuracy"])
        state.history.append(record)
        progress = state.progress
        improved = record["valid_accuracy"] > progress.best_accuracy and not turned_back
        if improved:
            progress.best_accuracy = record["valid_accuracy"]
        progress.epoch, progress.step, progress.epoch_seconds = progress.epoch + 1, 0, 0.0
        state.weight_meter.reset()
        state.alpha_meter.reset()
        tell(self.observers, "on_epoch_end", state, record)
        if improved and phase.derives:
            state.keep_best()
        self.save("last")

    def _turned_back(self, phase: Phase, record: Record) -> bool:
        """Does what the guard asks for. Whether the search has returned to an earlier state."""
        state, guard = self.state, self.state.guard
        remedy = guard.examine(phase, state.phases, record, state.history)
        if remedy == "keep":
            guard.healthy = deepcopy(state.search_state())
        elif remedy == "return" and guard.healthy is not None:
            state.return_to(deepcopy(guard.healthy))
        return remedy == "return"

    def save(self, name: str) -> None:
        """Has the first process write `checkpoints/<name>.pt`, for which the others wait.

        "last" is also kept under its epoch and step, with as many before it as configured.

        Raises CheckpointError.
        """
        if self.checkpoints is not None:
            folder = self.checkpoints
            self.state.processes.from_first(lambda: self._write(folder, name))
        if name == "last":
            self.cadence.restart()

    def _write(self, folder: Path, name: str) -> None:
        state, progress = self.state.state_dict(), self.state.progress
        if name == "last":
            kept = self.state.config.checkpoints_kept
            checkpoint_folder.save_newest(folder, progress.epoch, progress.step, state, kept)
        else:
            checkpoint.save(folder / f"{name}.pt", state)
