"""The loop of a search has two kinds of step, and begins and ends its epochs in its own way (docs/concepts.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asose_fast.engine.finals.finals import require_steps
from asose_fast.engine.finite import diverged, gradient_check, loss_check, require_finite, watched
from asose_fast.engine.health.watch import Watch
from asose_fast.engine.loop import Loop
from asose_fast.engine.measure import measure
from asose_fast.engine.observer import Observer, tell
from asose_fast.engine.phases import Phase
from asose_fast.engine.processes import digest
from asose_fast.engine.record import Record
from asose_fast.engine.state import SearchState
from asose_fast.engine.step.graphs import GraphedSteps
from asose_fast.engine.step.steps import Ahead
from asose_fast.engine.step.sync_batch_norm import synchronise
from asose_fast.space.copying import deepcopy


class Trainer(Loop[SearchState]):
    """Moves a search on from its present state to the derived network, and can stop anywhere in between."""

    def __init__(
        self, state: SearchState, folder: str | Path | None = None, observers: Sequence[Observer] = ()
    ) -> None:
        """Takes its arguments as `Loop` does. Raises ValueError for a search that cannot run."""
        super().__init__(state, state.config, folder, observers)
        self.graphs, self.watch = GraphedSteps(state.config, state.device, state.processes), Watch()
        self._held_out: Iterator[tuple[Any, Any]] = iter(())
        state.task.check(state.network, state.processes)
        state.best_path()  # a budget that no network can keep is refused here
        require_steps(state.task)

    def run(self) -> None:
        """Goes on from the present state to the end of the last phase.

        Raises SearchDivergedError, InterruptedRunError or CheckpointError; what was checkpointed stays. Processes that
        do not begin with the same data, settings and state raise ProcessesDifferError.
        """
        state = self.state
        given = {"data": state.data.digest, "configuration": digest(repr(state.config.to_dict()).encode())}
        state.processes.check_same(given, "all must be given the same")
        state.require_same()
        super().run()

    def _enter(self, phase: Phase) -> None:
        state, path = self.state, None
        if state.finals is None and not (phase.of_supernet or state.deriving):
            self.save("supernet")  # what `asose_fast.derive` goes on from
            path = state.final_path(state.config.derive_among, by=state.config.derive_by) if phase.derives else None
        super()._enter(phase)
        if phase.rules.temperature is not None:
            state.selector.temperature = phase.rules.temperature
        if phase.rules.noise:
            state.selector.perturb()
        if phase.finals:
            state.begin_finals(phase)
        elif state.finals is not None:
            state.derive_winner(state.finals)
        elif path is not None:
            state.derive(path)

    def _batches(self, phase: Phase) -> Iterator[tuple[Any, Any]]:
        state, config = self.state, self.state.config
        if state.finals is not None:
            return state.finals.batches(state.progress.step)
        state.network.train()
        self.graphs.begin(state.network, phase.name)
        if config.sync_batch_norm and state.processes.count > 1:
            synchronise(state.network, state.processes)  # again in every epoch: a block may have grown since
        self._held_out = self._held_out_batches()
        options: dict[str, Any] = {"augment": config.augment, "part": state.processes.part}
        return state.data.train.batches(state.progress.epoch, start=state.progress.step, **options)

    def _held_out_batches(self) -> Iterator[tuple[Any, Any]]:
        """Gives shuffled validation batches without end, from where the last alpha step left off."""
        state = self.state
        epoch, start = divmod(state.progress.alpha_steps, state.data.valid.num_batches())
        options: dict[str, Any] = {"augment": state.config.augment, "part": state.processes.part}
        while True:
            yield from state.data.valid.batches(epoch, start=start, shuffle=True, **options)
            epoch, start = epoch + 1, 0

    def _step(self, phase: Phase, x: Any, y: Any) -> None:
        progress, alone = self.state.progress, phase.rules.updates == "alpha"
        if not alone:
            self._weight_step(phase, x, y)
        progress.step += 1
        progress.since_alpha += phase.searching
        if phase.searching and (alone or progress.since_alpha == self.state.config.alpha_every - 1):
            self._alpha_step(phase, *next(self._held_out), Ahead(self.state.weight_optimizer, x, y))
            progress.since_alpha = 0
            tell(self.observers, "on_alpha_step", self.state)

    def _weight_step(self, phase: Phase, x: Any, y: Any) -> None:
        state = self.state
        if state.finals is not None:
            state.weight_meter.add(state.finals.step(x, y, state.learning_rate(phase)))
            return
        state.task.set_learning_rate(state.weight_optimizer, state.learning_rate(phase))
        path, mixture = None, None
        if not phase.derives:
            mixture, path = state.lookahead.weight(phase.mode)
            alpha_next = phase.searching and state.progress.since_alpha == state.config.alpha_every - 2
            state.lookahead.prepare("alpha" if alpha_next else "weight", phase.mode)
        recipe, objective = state.task.recipe if phase.derives else None, state.task.objective
        if recipe is not None:
            x, y = recipe.batch(x, y, state.progress.epoch, state.progress.step, state.processes.rank)
            objective = recipe.objective
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
            objective=objective,
            precision=state.config.precision,
        )
        if state.average:
            state.average.update(state.network)
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

    def _require_good(self, phase: Phase) -> None:
        require_finite(self.state, phase)
        self.state.require_same()

    def _end_epoch(self, phase: Phase) -> None:
        state, progress = self.state, self.state.progress
        state.lookahead.forget()
        self._require_good(phase)
        measured = measure(state, phase)
        record = state.processes.from_first(lambda: measured)  # times are not the same in all processes
        turned_back = self._turned_back(phase, record)
        if phase.grows and not turned_back and not state.guard.frozen:
            record["growth"] = state.grow_if_stalled(phase, record["valid_accuracy"])
        valid_accuracy = record["valid_accuracy"]
        improved = (valid_accuracy is None or valid_accuracy > progress.best_accuracy) and not turned_back
        if improved and valid_accuracy is not None:
            progress.best_accuracy = valid_accuracy
        state.alpha_meter.reset()
        self._close_epoch(record)
        if improved and phase.derives:
            # Without validation nothing else reads the statistics; a deadline may have made this epoch the last.
            if not state.validates and progress.epoch == state.epochs:
                state.calibrate(state.derived())
            state.keep_best()
        self.save("last")

    def _turned_back(self, phase: Phase, record: Record) -> bool:
        """Does what the guard asks for. Returns whether the search has gone back to an earlier state."""
        state, guard = self.state, self.state.guard
        remedy = guard.examine(phase, state.phases, record, state.history)
        if remedy == "keep":
            guard.healthy = deepcopy(state.search_state())
        elif remedy == "return" and guard.healthy is not None:
            state.return_to(deepcopy(guard.healthy))
        return remedy == "return"
