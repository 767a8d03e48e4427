"""The progress bar of an epoch also says what is left of the run."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from asose_fast.engine.loop import RunState
from asose_fast.engine.metric import ACCURACY, Metric
from asose_fast.engine.phases import Phase
from asose_fast.observe import forecast


class EpochBar:
    """Shows on a terminal how far an epoch has come; elsewhere it shows nothing."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._began: float | None = None
        self._known = 0

    def begin(self, state: RunState, phase: Phase) -> None:
        """Shows the bar of the epoch that begins or goes on."""
        if self._began is None:
            self._began, self._known = time.monotonic() - state.progress.epoch_seconds, len(state.history)
        if not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=self.console,
            transient=True,
        )
        self._task = self._bar.add_task(
            f"{phase.name} {state.progress.epoch + 1}/{state.epochs}",
            total=state.data.train.num_batches(),
            completed=state.progress.step,
            left=self._left(state),
            numbers="",
        )
        self._bar.start()

    def advance(self, state: RunState, images: int, more: str = "", metric: Metric = ACCURACY) -> None:
        """Shows the present step, every so many steps; `images` were computed with in the epoch so far."""
        step = state.progress.step
        every = 5 if state.device.type == "cpu" else 50
        if self._bar is None or self._task is None or step % every:
            return
        loss, accuracy = state.weight_meter.read()
        rate = images / max(state.progress.epoch_seconds, 1e-9)
        self._bar.update(
            self._task,
            completed=step,
            left=self._left(state),
            numbers=f"loss {loss:.3f}  {metric.name} {metric.shown(accuracy)}  {rate:.0f}/s{more}",
        )

    def _left(self, state: RunState) -> str:
        """Says what is left of the phase and of the run, with evaluation and checkpoints at the rate seen so far."""
        progress = state.progress
        done = progress.step / state.data.train.num_batches()
        left = forecast.left(state.phases, state.history, progress.epoch, done, progress.epoch_seconds)
        if left is None:
            return ""
        steps = sum(record["seconds"] for record in state.history[self._known :]) + progress.epoch_seconds
        passed = time.monotonic() - (self._began or 0.0)
        share = passed / steps if steps and len(state.history) > self._known else 1.0
        return f"left {forecast.clock(left.phase * share)}, run {forecast.clock(left.run * share)}"

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
