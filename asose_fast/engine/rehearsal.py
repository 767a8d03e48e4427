"""A few steps of every kind, in a search that is thrown away, say about how long the real one will take."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from itertools import islice
from typing import Literal, NamedTuple

import torch

from asose_fast.engine.deadline import Deadline
from asose_fast.engine.finals.finals import least_epochs
from asose_fast.engine.health.diverged import SearchDivergedError
from asose_fast.engine.phases import Phase
from asose_fast.engine.processes import Processes
from asose_fast.engine.state import SearchState
from asose_fast.engine.step.steps import Ahead
from asose_fast.engine.task import ImageTask, Task, plan_again
from asose_fast.engine.trainer import Trainer

STEPS = 4
"""So many steps of each kind are timed, after one that is not."""
SHORT = 10**9
"""A run of fewer values (images x pixels x channels, in all epochs) ends in a minute or so, and is not rehearsed."""
FORWARD = 1 / 3
"""An evaluation takes this share of a step, which has a backward pass too."""
AFTER = 2.0
"""Latency, report and results take so long after the last epoch, besides the test images."""
Kind = Literal["uniform", "searching", "derived"]


class Seconds(NamedTuple):
    """Steps of one kind take so long."""

    weight: float
    """A weight step, with the batch that it is given."""
    alpha: float
    """An alpha step; 0 where there are none."""


class _Rehearsal(Trainer):
    def seconds(self, phase: Phase) -> Seconds:
        """Enters a phase, and times its steps."""
        self._enter(phase)
        weight, alpha = [], [0.0]
        began = time.perf_counter()
        for x, y in islice(self._batches(phase), STEPS + 1):
            self._weight_step(phase, x, y)
            weight.append(self._now() - began)
            if phase.searching:
                began = self._now()
                self._alpha_step(phase, *next(self._held_out), Ahead(self.state.weight_optimizer, x, y))
                alpha.append(self._now() - began)
            began = time.perf_counter()
        return Seconds(statistics.mean(weight[-STEPS:]), statistics.mean(alpha[-STEPS:]))

    def _now(self) -> float:
        self.state.weight_meter.read()  # waits for a GPU
        return time.perf_counter()


class Estimate(NamedTuple):
    """A run takes about so many seconds."""

    epochs: dict[str, float]
    """An epoch of each phase."""
    after: float
    """What comes after the last epoch."""

    def of(self, phases: Sequence[Phase]) -> float:
        """Returns the seconds of all epochs."""
        return sum(phase.epochs * self.epochs[phase.name] for phase in phases)


def about(task: ImageTask) -> float | None:
    """Returns about how many seconds the epochs of a task will take here, in one process, or None where they are short
    or diverge (`rehearsed`)."""
    config, data = task.config, task.data
    values = len(data.train) * data.image_size**2 * config.channels * task.phases[-1].end
    if values < SHORT:
        return None
    try:
        return rehearsed(task).of(task.phases)
    except SearchDivergedError:  # the run itself will tell
        return None


def rehearsed(task: Task, processes: Processes | None = None) -> Estimate:
    """Estimates how long the run of a task will take here, in these processes, or in this one alone.

    Every kind of step is timed, and multiplied by its number. Growth is taken for the network of the start, and the
    derived network for a likely one. Random states and the task stay as they are. Raises SearchDivergedError.
    """
    config = task.config
    first = {_kind(phase): phase for phase in reversed(task.phases) if not phase.finals}
    wanted = [phase for phase in task.phases if phase in first.values()]
    trial = task.trial()
    trial.phases = tuple(dataclasses.replace(phase, first=i, epochs=1) for i, phase in enumerate(wanted))
    trial.config = dataclasses.replace(
        config, derive_among=0, derive_by="validation", finals_epochs=0, graphs="off", guard="off"
    )
    devices = [task.device] if task.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        rehearsal = _Rehearsal(SearchState(trial, processes))
        seconds = {_kind(phase): rehearsal.seconds(phase) for phase in trial.phases}
    test = task.data.test
    tested = test.num_batches() * FORWARD * seconds["derived"].weight if test else 0.0
    return Estimate({phase.name: _epoch(task, phase, seconds[_kind(phase)]) for phase in task.phases}, AFTER + tested)


def plan_for(seconds: float, task: Task, processes: Processes, began: float) -> Deadline:
    """Gives a task as many epochs as fit into `seconds` from `began` on (time.monotonic), as the first process has it.

    Raises ValueError where the least of each phase takes longer, and SearchDivergedError.
    """
    estimate, shares = rehearsed(task, processes), {phase.name: phase.epochs for phase in task.phases}
    least = {phase.name: least_epochs(task, phase) for phase in task.phases}

    def decided() -> tuple[Deadline, list[int]]:
        deadline = Deadline(seconds, estimate.after, shares, least, estimate.epochs, began=began)
        return deadline, deadline.plan(task.phases)

    deadline, epochs = processes.from_first(decided)
    plan_again(task, epochs)
    return deadline


def _epoch(task: Task, phase: Phase, seconds: Seconds) -> float:
    config = task.config
    unseen = not (phase.derives and config.optimize_on == "all")
    batches = (task.data if unseen else task.all_data).train.num_batches()
    steps = batches * seconds.weight
    if phase.searching:
        steps += batches / (config.alpha_every - 1) * seconds.alpha
    evaluated = task.data.valid.num_batches() + (0 if phase.derives else config.recalibration_batches)
    return steps + (evaluated * FORWARD * seconds.weight if unseen else 0.0)


def _kind(phase: Phase) -> Kind:
    if phase.searching:
        return "searching"
    return "derived" if phase.derives or phase.finals else "uniform"
