"""The state of a search is all that it is at a moment. It can be read, measured and derived from without its loop."""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.engine import randomness
from asose_fast.engine.alpha.budget_keeper import BudgetKeeper
from asose_fast.engine.alpha.estimators import Estimator, make_estimator
from asose_fast.engine.alpha.lookahead import Lookahead
from asose_fast.engine.alpha.pool import Measured, Pool
from asose_fast.engine.alpha.regularizers import beta_decay
from asose_fast.engine.deadline import Deadline
from asose_fast.engine.evaluate import recalibrate
from asose_fast.engine.finals.finals import Finals
from asose_fast.engine.growth.grow import StallCounter
from asose_fast.engine.health.guard import Guard
from asose_fast.engine.outlook import shortcomings
from asose_fast.engine.phases import Phase, first_search
from asose_fast.engine.processes import Processes, digest
from asose_fast.engine.progress import Progress
from asose_fast.engine.recipe.average import WeightAverage
from asose_fast.engine.record import Record
from asose_fast.engine.step.optimizers import (
    alpha_learning_rate,
    alpha_optimizer,
    learning_rate,
    load_named_state,
    named_state,
    of_derived,
    set_learning_rate,
)
from asose_fast.engine.step.steps import Regularizer
from asose_fast.engine.task import Task, fresh, plan_again
from asose_fast.space.copying import deepcopy
from asose_fast.space.network import Network
from asose_fast.space.supernet import Supernet
from asose_fast.store.provenance import Provenance, collect


class SearchState:
    """The rest of a search depends on this alone: network, architecture, optimizers, position and records.

    A `Trainer` moves it on. Whoever watches a run is given it, and may change what it knows how to change.

    Attributes:
        task: the kind of search; `config`, `data`, `device` and `phases` are its own.
        processes: those that run this search together, each with a state of its own. All hold the same network, alpha
            and history.
        network: the supernet or, once it has taken its place, the derived network.
        selector: alpha, temperature and draws.
        estimator: how alpha's gradient is estimated.
        finals: the networks that are trained against each other; None: there are none now.
        average: the derived network's moving average, which is measured and kept in its place; None: there is none.
        weight_optimizer: of the network's parameters.
        alpha_optimizer: of `selector.alpha`.
        progress: epoch, step and phase.
        weight_meter: sums over the weight steps of the epoch.
        alpha_meter: likewise over its alpha steps.
        history: the records of all epochs.
        restored: whether it stands where a checkpoint did.
        best: spec and tensors of the network that `best_network` gives; None before there is one.
        guard: what is done about a collapse.
        stall: counts the epochs without progress, for growth.
        lookahead: architectures drawn ahead of their steps.
        shortcomings: what the plan is too short for, in sentences (`outlook.shortcomings`).
        deadline: when the run is to end; None: it takes as long as its epochs do.
    """

    def __init__(self, task: Task, processes: Processes | None = None, estimator: Estimator | None = None) -> None:
        """Makes the state before the first step. Raises ValueError for a configuration that makes no sense.

        Args:
            task: what is searched.
            processes: those of the run; None: this one alone.
            estimator: another than that of the config.
        """
        self.task, self.config, self.processes = task, task.config, processes or Processes()
        for setting, only in (("estimator", "local_score"), ("alpha_order", "second")):
            if self.processes.count > 1 and getattr(self.config, setting) == only:
                raise ValueError(f"{setting}: {only} runs in one process, got {self.processes.count}")
        if self.processes.count > 1 and self.config.derive_max_latency is not None:
            raise ValueError(
                f"derive_max_latency is timed by one process, got {self.processes.count}, which would disagree: bound "
                "derive_max_flops, or give derive --max_latency after the search"
            )
        self.data, self.device, self.phases = task.data, task.device, task.phases
        self._of_derived = of_derived(self.config)
        self.progress, self.stall, self.guard = Progress(), StallCounter(), Guard(self.config)
        self.history: list[Record] = []
        self.restored = False
        self.deadline: Deadline | None = None
        self.best: dict[str, Any] | None = None
        self.finals: Finals | None = None
        self._derived_path: list[int] | None = None
        self.predicted_latency: int | None = None
        """Nanoseconds that the derived network should take, where a bound had the candidates timed."""
        self.weight_meter, self.alpha_meter = task.meter(), task.meter()
        self.estimator = estimator or make_estimator(self.config)
        torch.manual_seed(self.config.seed)
        network = task.supernet()
        self.selector = task.selector(network)
        self.lookahead = Lookahead(self.selector, self.estimator, on=self.device.type != "cpu")
        self._sample_apart()
        self._install(network)
        batches, rate = self.data.train.num_batches(), float(self.alpha_optimizer.param_groups[0]["lr"])
        self.shortcomings = shortcomings(self.config, self.phases, batches, self.selector, rate)

    def _sample_apart(self) -> None:
        if not self.config.share_samples:
            self.selector.draw_apart(self.processes.rank)

    def _install(self, network: Supernet) -> None:
        """Makes `network` the one that is trained, with fresh optimizers."""
        self.network = self.task.placed(network)
        self.weight_optimizer = self.task.optimizer(self.network)
        averaged = self.deriving and self.config.ema_decay > 0
        self.average = WeightAverage(self.network, self.config.ema_decay) if averaged else None
        if not self.validates:
            self.data = self.task.all_data
        self.alpha_optimizer = alpha_optimizer(self.selector.alpha, self._alpha_rate())

    def _alpha_rate(self) -> float:
        search = first_search(self.phases)
        batches = search.epochs * self.task.data.train.num_batches() if search else 0
        steps = batches // (1 if search and search.rules.updates == "alpha" else self.config.alpha_every - 1)
        return alpha_learning_rate(self.config, steps) * self.guard.alpha_rate

    def plan_again(self, epochs: Sequence[int]) -> None:
        """Gives the phases so many epochs, with the learning rates that follow from them."""
        plan_again(self.task, epochs)
        self.config, self.phases = self.task.config, self.task.phases
        set_learning_rate(self.alpha_optimizer, self._alpha_rate())

    @property
    def settings(self) -> dict[str, Any]:
        """These settings have an effect; they are for those who read about the run."""
        return self.task.settings

    @property
    def epochs(self) -> int:
        """The whole run has so many epochs."""
        return self.phases[-1].end

    @property
    def deriving(self) -> bool:
        """Says whether the derived network has taken the supernet's place."""
        return any(phase.derives for phase in self.phases if phase.name == self.progress.phase)

    @property
    def validates(self) -> bool:
        """Whether the network in training has not seen the validation images."""
        return not (self.deriving and self.config.optimize_on == "all")

    def stop(self, reason: signal.Signals) -> None:
        """Asks the run to write a checkpoint after the present step and raise InterruptedRunError, in all processes."""
        self.processes.stop(reason)

    def learning_rate(self, phase: Phase) -> float:
        """Returns the weights' learning rate at the present step."""
        done = self.progress.epochs_done(self.data.train.num_batches())
        config = self.config if phase.of_supernet else self._of_derived
        return learning_rate(config, self.phases, phase, done, self.config.warmup_share)

    @property
    def regularizers(self) -> list[Regularizer]:
        """Alpha steps minimise these besides the validation loss."""
        found = [self.beta_decay] if self.config.beta_decay else []
        bound = self.config.budget_weight and self.task.budget.binds(self.network)
        return [*found, self.over_budget] if bound else found

    def beta_decay(self) -> Tensor:
        """Returns the regularizer of this name, whose weight rises over the first phase that searches."""
        search = first_search(self.phases)
        ramp = min(1.0, (self.progress.epoch + 1 - search.first) / search.epochs) if search else 0.0
        return beta_decay(self.selector.logits(), self.config.beta_decay * ramp)

    def over_budget(self) -> Tensor:
        """Returns the expected cost above the bounds (`budget.penalty`), weighted."""
        return self.config.budget_weight * self.task.budget.penalty(self.network, self.selector.logits())

    def best_path(self, budget: BudgetKeeper | None = None) -> list[int]:
        """Returns the most probable architecture within the budget, as candidates by row of alpha (`choose`, `derive`).

        Once a network is derived, it is the architecture of that one. `budget` has other bounds than those of the task.
        Raises BudgetError where none keeps it.
        """
        if self.deriving:
            return self._derived_path or self.selector.best_path()
        pool = self.pool(budget)
        return pool.choose(pool.scores)

    def pool(self, budget: BudgetKeeper | None = None) -> Pool:
        """Returns what may be derived from the supernet; `budget` is as in `best_path`."""
        scores = self.selector.logits().detach().log_softmax(1)
        return Pool(self.network, budget or self.task.budget, scores, self.config.seed)

    def final_path(self, among: int, budget: BudgetKeeper | None = None, by: Measured = "validation") -> list[int]:
        """Returns the architecture of the best validation accuracy among those that `Pool.best` measures.

        With 0 it is the most probable one, without measuring. `budget` is as in `best_path`.
        """
        return self.pool(budget).best(by, among, self.path_accuracy)

    def path_accuracy(self, path: list[int]) -> float:
        """Returns the validation accuracy of the network that `path` derives, with statistics of its own."""
        derived = self.network.derive(path)
        self.calibrate(derived)
        return self.valid_accuracy(derived)

    def derived(self) -> Supernet:
        """Returns the network of the most probable candidates, the leader of the finals or, once it is trained alone,
        the derived network or its average."""
        if self.deriving:
            return self.average.network if self.average else self.network
        if self.finals:
            return self.finals.leader.network
        return self.network.derive(self.best_path())

    def calibrate(self, network: Supernet) -> None:
        """Gives `network` batch-norm statistics of its own, from training images as they are trained on: those of
        images that it knows by heart are not those of new ones."""
        augment = self.config.augment
        batches = self.data.train.batches(self.progress.epoch, augment=augment, turns=self.processes.part)
        recalibrate(network, batches, self.config.recalibration_batches, self.processes)

    def valid_accuracy(self, network: Supernet) -> float:
        """Returns the metric of `network` over the validation batches."""
        batches = self.data.valid.batches(0, shuffle=False, augment=False, turns=self.processes.part)
        return self.task.accuracy(network, batches, self.processes)

    def derive(self, path: list[int]) -> None:
        """Has the network that `path` derives take the supernet's place, with its weights and their momentum, or with
        fresh ones (`optimize_from`)."""
        derived = self.network.derive(path)
        if self.config.optimize_from == "scratch":
            derived = fresh(self.task, derived)
        self._derive(path, derived, self.weight_optimizer)

    def begin_finals(self, phase: Phase) -> None:
        """Trains several networks within the budget against each other, each a copy apart from the supernet.

        They are likely or uniformly random ones (`finals_from`). Raises ValueError where the phase is too short.
        """
        pool = self.pool()
        draw = pool.uniform if self.config.finals_from == "uniform" else pool.likely
        paths = draw(self.config.finals_paths)
        self.finals = Finals.begin(self.task, self.processes, phase, self.network, paths)

    def derive_winner(self, finals: Finals) -> None:
        """Has the winner of the finals take the supernet's place, with its weights and their momentum."""
        self.finals, winner = None, finals.leader
        self._derive(winner.path, winner.network, winner.optimizer)

    def _derive(self, path: list[int], network: Supernet, before: torch.optim.Optimizer) -> None:
        """Takes over what the optimizer `before` knows of parameters, unless the network's own is of another kind."""
        self._derived_path = path
        self.predicted_latency = self.task.budget.predicted(self.network, path)
        self._install(network)
        adamw = [isinstance(optimizer, torch.optim.AdamW) for optimizer in (before, self.weight_optimizer)]
        for parameter in self.network.parameters() if adamw[0] == adamw[1] else ():
            if parameter in before.state:
                self.weight_optimizer.state[parameter] = before.state[parameter]
        self.progress.best_accuracy = -math.inf

    def grow_if_stalled(self, phase: Phase, valid_accuracy: float) -> Record | None:
        """Grows where accuracy has stalled, unless too few epochs are left for what is new to learn anything."""
        time_left = phase.end - (self.progress.epoch + 1) >= self.config.growth_patience
        if not self.stall.stalled(self.config, valid_accuracy) or not time_left:
            return None
        if self.task.growth is None or not isinstance(self.network, Network):
            return None
        optimizers = (self.weight_optimizer, self.alpha_optimizer)
        return self.task.growth.grow(self.network, self.selector, *optimizers, self.history)

    def keep_best(self) -> None:
        """Keeps a copy of the derived network as it is, for `best_network`."""
        state = self.derived().state_dict().items()  # with what a module's get_extra_state gives, of any type
        values = {name: value.clone() if isinstance(value, Tensor) else deepcopy(value) for name, value in state}
        self.best = {"spec": self.network.spec.to_dict(), "network": values}

    def best_network(self) -> Supernet:
        """Returns the derived network of the optimize epoch with the best validation accuracy or, without one, of the
        last epoch, in evaluation mode.

        Raises ValueError before the first such epoch.
        """
        if self.best is None:
            raise ValueError("there is no best network before the end of the first epoch of the phase optimize")
        network = self.task.rebuilt(self.best["spec"])
        network.load_state_dict(self.best["network"])
        return network.to(self.device).eval()

    def require_same(self) -> None:
        """Raises ProcessesDifferError where the processes differ, and gives all the same running statistics.

        Those of the first are taken, as DistributedDataParallel does: no evaluation reads any that were not
        recalibrated, but so its checkpoint is the state of every process.
        """
        if self.processes.count == 1:
            return
        networks = [self.network]
        networks += [self.average.network] if self.average else []
        networks += self.finals.networks if self.finals else []
        self.processes.check_same(
            {
                "genotype": digest(repr((self.network.spec, self.best_path())).encode()),
                "alpha": digest(*self.selector.alpha),
                "weights": digest(*(p for network in networks for p in network.parameters())),
            }
        )
        self.processes.copy_from_first([buffer for network in networks for buffer in network.buffers()])

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the rest of the run depends on."""
        return {
            "config": self.config.to_dict(),
            "task": type(self.task).__qualname__,
            "provenance": self.provenance(),
            **self.search_state(),
            "guard": self.guard.state_dict(),
            "progress": dataclasses.asdict(self.progress),
            "stall": dataclasses.asdict(self.stall),
            "weight_meter": self.weight_meter.state_dict(),
            "alpha_meter": self.alpha_meter.state_dict(),
            "history": self.history,
            "best": self.best,
            "derived_path": self._derived_path,
            "shortcomings": self.shortcomings,
            "latencies": self.task.budget.state_dict(),
            "predicted_latency": self.predicted_latency,
            **({"finals": self.finals.state_dict()} if self.finals else {}),
            **({"deadline": self.deadline.state_dict()} if self.deadline else {}),
            **randomness.state_dict(self.device),
            **self.task.identity,
        }

    def provenance(self) -> Provenance:
        """Says what the run is computed from and with, here and now."""
        return collect(self.data, self.device)

    def search_state(self) -> dict[str, Any]:
        """Returns the network, the architecture and their optimizers."""
        self.lookahead.forget()
        return {
            "spec": self.network.spec.to_dict(),
            "network": self.network.state_dict(),
            "selector": self.selector.state_dict(),
            "estimator": self.estimator.state_dict(),
            "weight_optimizer": named_state(self.weight_optimizer, dict(self.network.named_parameters())),
            "alpha_optimizer": named_state(self.alpha_optimizer, self._named_alpha()),
            **({"average": self.average.state_dict()} if self.average else {}),
        }

    def _load_search_state(self, state: dict[str, Any]) -> None:
        self.selector.load_state_dict(state["selector"])
        self.estimator.load_state_dict(state["estimator"])
        self._install(self.task.rebuilt(state["spec"]))
        self.network.load_state_dict(state["network"])
        load_named_state(self.weight_optimizer, dict(self.network.named_parameters()), state["weight_optimizer"])
        load_named_state(self.alpha_optimizer, self._named_alpha(), state["alpha_optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])

    def _load_finals(self, state: dict[str, Any] | None) -> None:
        self.finals = None
        if state is not None:
            phase = next(phase for phase in self.phases if phase.name == self.progress.phase)
            self.finals = Finals.restored(self.task, self.processes, phase, self.network, state)

    def return_to(self, state: dict[str, Any]) -> None:
        """Goes on from an earlier `search_state`, with draws that have not been made yet."""
        rng, generator = self.selector.rng.clone(), self.selector.generator.get_state()
        self._load_search_state(state)
        self.selector.rng = rng
        self.selector.generator.set_state(generator)

    def _named_alpha(self) -> dict[str, Tensor]:
        return {str(layer): row for layer, row in enumerate(self.selector.alpha)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverts `state_dict`. Raises ValueError for a state of another kind of search."""
        kind = type(self.task).__qualname__
        if (there := state.get("task", kind)) != kind:
            raise ValueError(
                f"its search is of the task {there}, and this one of {kind}: go on with that task in Python"
            )
        self.restored = True
        if self.config.seconds is not None and "deadline" in state:
            self.deadline = Deadline(**state["deadline"])
        self.progress, self.stall = Progress(**state["progress"]), StallCounter(**state["stall"])
        self.history = list(state["history"])
        self.guard.load_state_dict(state["guard"])
        self.task.budget.load_state_dict(state.get("latencies", []))
        self._load_search_state(state)
        self._derived_path = state.get("derived_path")
        self.shortcomings = state.get("shortcomings", self.shortcomings)
        self.predicted_latency = state.get("predicted_latency")
        self._load_finals(state.get("finals"))
        self._sample_apart()
        self.weight_meter.load_state_dict(state["weight_meter"])
        self.alpha_meter.load_state_dict(state["alpha_meter"])
        self.best = state["best"]
        randomness.restore(state, self.device)
