"""The finalists are networks that may be derived. Each is trained on its own, and the best of them wins."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from asose_fast.engine.finals.bracket import Bracket, Rung, least_steps, rungs
from asose_fast.engine.health.diverged import SearchDivergedError
from asose_fast.engine.phases import Phase
from asose_fast.engine.processes import Processes
from asose_fast.engine.record import Record
from asose_fast.engine.step.optimizers import load_named_state, named_state
from asose_fast.engine.step.steps import StepResult, weight_step
from asose_fast.engine.step.sync_batch_norm import synchronise
from asose_fast.engine.task import Task, fresh
from asose_fast.space.copying import deepcopy
from asose_fast.space.supernet import Supernet


class Finalist:
    """One of the networks, with the optimizer of its weights and its losses so far."""

    def __init__(self, task: Task, supernet: Supernet, path: Sequence[int]) -> None:
        """Begins with a copy of the supernet's weights or with fresh ones (`optimize_from`), and without momentum."""
        self.path, derived = list(path), supernet.derive(path)
        scratch = task.config.optimize_from == "scratch"
        self.network = task.placed(fresh(task, derived) if scratch else deepcopy(derived))
        self.optimizer, self.meter = task.optimizer(self.network), task.meter()

    @property
    def parameters(self) -> int:
        """Returns how many weights it has."""
        return sum(p.numel() for p in self.network.parameters())

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the rest of its training depends on."""
        return {
            "path": self.path,
            "network": self.network.state_dict(),
            "optimizer": named_state(self.optimizer, dict(self.network.named_parameters())),
            "meter": self.meter.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverts `state_dict`, for a finalist of the same path."""
        self.network.load_state_dict(state["network"])
        load_named_state(self.optimizer, dict(self.network.named_parameters()), state["optimizer"])
        self.meter.load_state_dict(state["meter"])


class Finals:
    """Trains finalists as the phase optimize trains the derived network, on batches that all of a rung see.

    At the end of a rung the half of the smaller mean training loss stays (`Bracket`). That is the mean over all steps
    of a finalist since the finals began. It is a signal of the quality of a network, since a network that learns fast
    generalises well (arXiv 2006.04492).

    Attributes:
        finalists: those that are still in, by their number.
        bracket: whose turn it is.
        rungs: a record of each rung that is over.
    """

    def __init__(
        self, task: Task, processes: Processes, phase: Phase, finalists: dict[int, Finalist], bracket: Bracket
    ) -> None:
        """Takes them as they are (`begin`, `restored`)."""
        self.task, self.processes, self.phase = task, processes, phase
        self.finalists, self.bracket = finalists, bracket
        self.rungs: list[Record] = []

    @staticmethod
    def begin(
        task: Task, processes: Processes, phase: Phase, supernet: Supernet, paths: Sequence[Sequence[int]]
    ) -> Finals:
        """Begins with the networks that `paths` derive. Of equal ones the first is the better.

        Raises ValueError where the phase has too few steps for them.
        """
        bracket = Bracket.begin(len(paths), steps_of(task, phase))
        finalists = {k: Finalist(task, supernet, path) for k, path in enumerate(paths)}
        return Finals(task, processes, phase, finalists, bracket)

    @staticmethod
    def restored(task: Task, processes: Processes, phase: Phase, supernet: Supernet, state: dict[str, Any]) -> Finals:
        """Inverts `state_dict`, for the same supernet."""
        bracket = Bracket(rungs(state["begun"], steps_of(task, phase)), list(state["standing"]), state["done"])
        finalists = {k: Finalist(task, supernet, values["path"]) for k, values in state["finalists"].items()}
        for k, finalist in finalists.items():
            finalist.load_state_dict(state["finalists"][k])
        finals = Finals(task, processes, phase, finalists, bracket)
        finals.rungs = list(state["rungs"])
        return finals

    @property
    def leader(self) -> Finalist:
        """Returns the best of the last rung, and the first before there is one: the winner in the end."""
        return self.finalists[self.bracket.standing[0]]

    @property
    def networks(self) -> list[Supernet]:
        """Returns the networks that are still in."""
        return [finalist.network for finalist in self.finalists.values()]

    def batches(self, step: int) -> Iterator[tuple[Any, Any]]:
        """Gives the batches of an epoch from its step number `step` on, one for each step."""
        for network in self.networks:
            network.train()
            if self.task.config.sync_batch_norm and self.processes.count > 1:
                synchronise(network, self.processes)
        return itertools.islice(self._rounds(), self.task.data.train.num_batches() - step)

    def _rounds(self) -> Iterator[tuple[Any, Any]]:
        """Gives each batch as often as there are finalists that have not seen it, without end."""
        train, recipe, rank = self.task.data.train, self.task.recipe, self.processes.rank
        epoch, start = divmod(self.bracket.turn.round, train.num_batches())
        options: dict[str, Any] = {"augment": self.task.config.augment, "part": self.processes.part}
        while True:
            number = self.phase.first + epoch
            for place, (x, y) in enumerate(train.batches(number, start=start, **options), start):
                x, y = (x, y) if recipe is None else recipe.batch(x, y, number, place, rank)
                yield from itertools.repeat((x, y), self.bracket.turn.left)
            epoch, start = epoch + 1, 0

    def step(self, x: Any, y: Any, rate: float) -> StepResult:
        """Trains the finalist whose turn it is on the next of `batches`, and closes a rung that ends.

        Raises SearchDivergedError where no finalist's loss is finite.
        """
        turn, config, recipe = self.bracket.turn, self.task.config, self.task.recipe
        finalist = self.finalists[turn.finalist]
        self.task.set_learning_rate(finalist.optimizer, rate)
        result = weight_step(
            finalist.network,
            finalist.optimizer,
            x,
            y,
            None,
            clip=config.gradient_clip,
            processes=self.processes,
            objective=self.task.objective if recipe is None else recipe.objective,
            precision=config.precision,
        )
        finalist.meter.add(result)
        self.bracket.done += 1
        if turn.ends and len(self.finalists) > 1:
            self._close(self.bracket.rungs[turn.rung])
        return result

    def _close(self, rung: Rung) -> None:
        losses = {k: finalist.meter.read()[0] for k, finalist in self.finalists.items()}
        ranking = self.bracket.close(losses)
        batches = self.task.data.train.num_batches()
        described = [
            {
                "operations": list(self.finalists[k].network.operations),
                "parameters": self.finalists[k].parameters,
                "loss": losses[k] if math.isfinite(losses[k]) else None,
                "stays": k in self.bracket.standing,
            }
            for k in ranking
        ]
        epoch = self.phase.first + (self.bracket.done - 1) // batches + 1
        self.rungs.append({"epoch": epoch, "steps": rung.rounds, "finalists": described})
        self.finalists = {k: self.finalists[k] for k in sorted(self.bracket.standing)}
        if not math.isfinite(losses[ranking[0]]):
            raise SearchDivergedError(f"the loss of every finalist is not finite in phase {self.phase.name}")

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the rest of the finals depends on, but for the supernet."""
        return {
            "begun": self.bracket.rungs[0].finalists,
            "standing": list(self.bracket.standing),
            "done": self.bracket.done,
            "finalists": {k: finalist.state_dict() for k, finalist in self.finalists.items()},
            "rungs": self.rungs,
        }


def require_steps(task: Task) -> None:
    """Raises ValueError where the finals that are planned have too few steps."""
    for phase in task.phases:
        if phase.finals:
            rungs(task.config.finals_paths, steps_of(task, phase))


def least_epochs(task: Task, phase: Phase) -> int:
    """Returns how many epochs a phase has at least: one, and in the finals those of the steps that they need."""
    steps = least_steps(task.config.finals_paths) if phase.finals else 1
    return -(-steps // task.data.train.num_batches())


def steps_of(task: Task, phase: Phase) -> int:
    """Returns how many steps the finals have, all finalists together."""
    return phase.epochs * task.data.train.num_batches()


def describe(rung: Record) -> str:
    """Returns a rung of `Finals.rungs` in words."""
    ranking = rung["finalists"]
    best, stay = ranking[0], sum(finalist["stays"] for finalist in ranking)
    return (
        f"finals: {stay} of {len(ranking)} stay after {rung['steps']} steps each; the best has the loss "
        f"{best['loss']:.3f} and {best['parameters']:,} parameters: {', '.join(best['operations'])}"
    )
