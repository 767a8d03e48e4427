"""The four-phase search: warmup, search, growth, optimize (docs/concepts.md)."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asose_fast import checkpoint, checkpoint_folder, provenance
from asose_fast.config import Config
from asose_fast.data import Data
from asose_fast.search import health
from asose_fast.search.budget import BudgetKeeper
from asose_fast.search.cadence import Cadence
from asose_fast.search.collapse import Metric, idle_mass
from asose_fast.search.curvature import curvature
from asose_fast.search.diverged import SearchDivergedError, first_nonfinite, nonfinite_gradient
from asose_fast.search.estimators import make_estimator
from asose_fast.search.evaluate import accuracy, recalibrate
from asose_fast.search.final_choice import likely_paths
from asose_fast.search.graphs import GraphedSteps
from asose_fast.search.growth import StallCounter
from asose_fast.search.growth_control import GrowthControl
from asose_fast.search.guard import Guard
from asose_fast.search.lookahead import Lookahead
from asose_fast.search.meter import Meter
from asose_fast.search.observer import Observer, Record, tell
from asose_fast.search.one_value import require_more
from asose_fast.search.optimizers import (
    alpha_learning_rate,
    alpha_optimizer,
    learning_rate,
    load_named_state,
    named_state,
    on_device,
    set_learning_rate,
    weight_optimizer,
)
from asose_fast.search.outlook import shortcomings
from asose_fast.search.phases import Phase, first_search, phase_at, plan
from asose_fast.search.processes import Processes, digest
from asose_fast.search.regularizers import beta_decay
from asose_fast.search.selector import Selector
from asose_fast.search.steps import Ahead, GradientCheck, LossCheck, Objective, Regularizer, classification
from asose_fast.search.sync_batch_norm import on_its_own, synchronise
from asose_fast.search.watch import Watch
from asose_fast.space.build import Supernet, build, make_spec, spec_from_dict
from asose_fast.space.copying import deepcopy
from asose_fast.space.network import Network, NetworkSpec

__all__ = ["InterruptedRunError", "Observer", "Progress", "Record", "Trainer"]


class InterruptedRunError(Exception):
    """The run was asked to stop and has written a checkpoint."""

    def __init__(self, reason: signal.Signals, message: str) -> None:
        super().__init__(message)
        self.signal = reason


@dataclasses.dataclass
class Progress:
    """Where a run stands."""

    epoch: int = 0
    """Epochs completed."""
    step: int = 0
    """Weight steps done in the present epoch."""
    since_alpha: int = 0
    """Weight steps since the last alpha step."""
    alpha_steps: int = 0
    """Alpha steps in all: also the position in the validation batches."""
    phase: str = ""
    """The phase that was entered last."""
    best_accuracy: float = -math.inf
    """Best validation accuracy, of the supernet's derived paths or, in optimize, of the derived network; epochs that
    the guard has turned back do not count."""
    epoch_seconds: float = 0.0
    """Time spent in the steps of the present epoch."""


class Trainer:
    """Runs a search from its first batch to the derived network, and can stop and go on anywhere in between."""

    def __init__(
        self,
        config: Config,
        data: Data,
        device: torch.device,
        folder: Path,
        observers: Sequence[Observer] = (),
        processes: Processes | None = None,
        *,
        phases: Sequence[Phase] | None = None,
        objective: Objective = classification,
    ) -> None:
        """Builds everything for epoch 0. Raises ValueError for a configuration that cannot run.

        Args:
            config: all settings.
            data: the three splits, on `device`.
            device: where the network lives.
            folder: the run folder; checkpoints go to its `checkpoints`.
            observers: told of every step and epoch.
            processes: those that run this search together, each with a trainer of its own. All hold the same network,
                alpha and history; the first alone writes files.
            phases: another schedule than that of the config (`phases.schedule`).
            objective: what the steps minimise and count.
        """
        self.config, self.data, self.device, self.observers = config, data, device, list(observers)
        self.processes = processes or Processes()
        for setting, only in (("estimator", "local_score"), ("alpha_order", "second")):
            if self.processes.count > 1 and getattr(config, setting) == only:
                raise ValueError(f"{setting}: {only} runs in one process, got {self.processes.count}")
        self.checkpoints = folder / "checkpoints"
        self.phases = plan(config) if phases is None else tuple(phases)
        self.objective = objective
        self.budget = BudgetKeeper(config, data.image_size)
        self.progress, self.stall = Progress(), StallCounter()
        self.history: list[Record] = []
        self.best: dict[str, Any] | None = None  # spec and tensors of the network that best_network gives
        self.cadence = Cadence(config)
        self.estimator, self.guard = make_estimator(config), Guard(config)
        self.regularizers: list[Regularizer] = [self._beta_decay] if config.beta_decay else []
        if self.budget.budget.any and config.budget_weight:
            self.regularizers.append(self._over_budget)
        self.weight_meter, self.alpha_meter = Meter(device), Meter(device)
        self.graphs, self.watch = GraphedSteps(config, device, self.processes), Watch()
        torch.manual_seed(config.seed)
        network = self._supernet()
        self.selector = self._selector(network)
        self.lookahead = Lookahead(self.selector, self.estimator, on=device.type != "cpu")
        self.growth = None  # networks of cells do not grow
        if isinstance(network.spec, NetworkSpec):
            self.growth = GrowthControl(config, network.spec, data.image_size, self.budget.budget)
        self._sample_apart()
        self._install(network)
        apart = 1 if config.sync_batch_norm else self.processes.count
        require_more(self.network, len(config.candidates), (data.train, data.valid), data.image_size, apart)
        self.best_path()  # a budget that no network can keep is refused here

    @property
    def settings(self) -> dict[str, Any]:
        """Of the config, for those who read about the run."""
        return self.config.to_dict()

    def _supernet(self) -> Supernet:
        """The network that the search begins with."""
        return build(make_spec(self.config, self.data.channels, len(self.data.classes)))

    def _rebuilt(self, spec: dict[str, Any]) -> Supernet:
        """The network of a `spec` in a state, whatever its weights."""
        return build(spec_from_dict(spec))

    def _selector(self, network: Supernet) -> Selector:
        return Selector(self.config, self.config.candidates, network.spec.rows, self.config.seed, self.device)

    def _sample_apart(self) -> None:
        if not self.config.share_samples:
            self.selector.draw_apart(self.processes.rank)

    def _install(self, network: Supernet) -> None:
        """Makes `network` the one that is trained, with fresh optimizers."""
        self.network: Supernet = self._placed(network)
        self.weights = self._weight_optimizer()
        search = first_search(self.phases)
        batches = search.epochs * self.data.train.num_batches() if search else 0
        steps = batches // (1 if search and search.rules.updates == "alpha" else self.config.alpha_every - 1)
        rate = alpha_learning_rate(self.config, steps) * self.guard.alpha_rate
        self.alpha = alpha_optimizer(self.selector.alpha, rate)

    def shortcomings(self) -> list[str]:
        """What the plan is too short for, in words (`outlook.shortcomings`), at the start of the run."""
        batches, rate = self.data.train.num_batches(), self.alpha.param_groups[0]["lr"]
        return shortcomings(self.config, self.phases, batches, self.selector, float(rate))

    def _placed(self, network: Supernet) -> Supernet:
        return network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def _weight_optimizer(self) -> torch.optim.Optimizer:
        """Of the present network."""
        optimizer = weight_optimizer(self.config, self.network)
        if self.device.type == "cuda":
            on_device(optimizer)
        return optimizer

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return self.phases[-1].end

    def stop(self, reason: signal.Signals) -> None:
        """Asks the run to write a checkpoint after the present step and raise InterruptedRunError, in all processes."""
        self.processes.stop(reason)

    def run(self) -> None:
        """Goes on from the present state to the end of the last phase.

        Raises SearchDivergedError, InterruptedRunError or CheckpointError; what was checkpointed stays. Processes that
        do not begin with the same data, settings and state raise ProcessesDifferError.
        """
        given = {"data": self.data.digest, "configuration": digest(repr(self.config.to_dict()).encode())}
        self.processes.check_same(given, "all must be given the same")
        self._require_same()
        while self.progress.epoch < self.epochs:
            phase = phase_at(self.phases, self.progress.epoch)
            self._enter(phase)
            tell(self.observers, "on_epoch_start", self, phase)
            self._train_epoch(phase)
            self._end_epoch(phase)
        tell(self.observers, "on_run_end", self)

    def _enter(self, phase: Phase) -> None:
        if self.progress.phase == phase.name:
            return
        derived = self.deriving
        if phase.derives and not derived:
            self.save("supernet")  # what `asose_fast.derive` goes on from
            path = self.final_path(self.config.derive_among)
        self.progress.phase = phase.name
        if phase.rules.temperature is not None:
            self.selector.temperature = phase.rules.temperature
        if phase.rules.noise:
            self.selector.perturb()
        if phase.derives and not derived:
            momentum = self.weights.state
            self._install(self.network.derive(path))
            for parameter in self.network.parameters():
                if parameter in momentum:
                    self.weights.state[parameter] = momentum[parameter]
            self.progress.best_accuracy = -math.inf
        tell(self.observers, "on_phase_start", self, phase)

    @property
    def deriving(self) -> bool:
        """Whether the derived network has taken the supernet's place."""
        return any(phase.derives for phase in self.phases if phase.name == self.progress.phase)

    def _train_epoch(self, phase: Phase) -> None:
        progress, started = self.progress, time.perf_counter()
        before = progress.epoch_seconds
        self.network.train()
        self.graphs.begin(self.network, phase.name)
        if self.config.sync_batch_norm and self.processes.count > 1:
            synchronise(self.network, self.processes)  # again in every epoch: a block may have grown since
        held_out = self._held_out_batches() if phase.searching else None
        augment, part = self.config.augment, self.processes.part
        batches = self.data.train.batches(progress.epoch, start=progress.step, augment=augment, part=part)
        for x, y in batches:
            alone = phase.rules.updates == "alpha"
            if not alone:
                self._weight_step(phase, x, y)
            progress.step += 1
            progress.since_alpha += phase.searching
            if held_out and (alone or progress.since_alpha == self.config.alpha_every - 1):
                self._alpha_step(phase, *next(held_out), Ahead(self.weights, x, y))
                progress.since_alpha = 0
                tell(self.observers, "on_alpha_step", self)
            progress.epoch_seconds = before + time.perf_counter() - started
            tell(self.observers, "on_step", self)
            if reason := self.processes.stopping:
                self._require_finite(phase)
                self._require_same()
                self.save("last")
                where = f"epoch {progress.epoch + 1} of {self.epochs}, step {progress.step}"
                raise InterruptedRunError(reason, f"stopped by {reason.name} in phase {phase.name}, {where}")
            if any(self.processes.total(self.cadence.due())):
                paused = time.perf_counter()
                self._require_finite(phase)
                self._require_same()
                self.save("last")
                started += time.perf_counter() - paused

    def _held_out_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Endless shuffled validation batches for alpha steps, from where the last alpha step left off."""
        count = self.data.valid.num_batches()
        epoch, start = divmod(self.progress.alpha_steps, count)
        while True:
            augment, part = self.config.augment, self.processes.part
            yield from self.data.valid.batches(epoch, start=start, shuffle=True, augment=augment, part=part)
            epoch, start = epoch + 1, 0

    def _weight_step(self, phase: Phase, x: Tensor, y: Tensor) -> None:
        progress = self.progress
        self._set_learning_rate(self._learning_rate(phase))
        path, mixture = None, None
        if not phase.derives:
            mixture, path = self.lookahead.weight(phase.mode)
            alpha_next = phase.searching and progress.since_alpha == self.config.alpha_every - 2
            self.lookahead.prepare("alpha" if alpha_next else "weight", phase.mode)
        check = self._loss_check("loss", phase, x, path)
        result = self.graphs.weight_step(
            self.network,
            self.weights,
            x,
            y,
            path,
            mixture=mixture,
            clip=self.config.gradient_clip,
            check=check,
            check_gradient=self._gradient_check(phase) if check else None,
            processes=self.processes,
            objective=self.objective,
            precision=self.config.precision,
        )
        self.weight_meter.add(result)
        if not check and not self.watch.finite(self._watched):
            raise self._diverged("a loss or alpha is not finite", phase, x, self._path_of(phase, path))

    def _set_learning_rate(self, rate: float) -> None:
        set_learning_rate(self.weights, rate)

    def _learning_rate(self, phase: Phase) -> float:
        done = self.progress.epoch + self.progress.step / self.data.train.num_batches()
        return learning_rate(self.config, self.phases, phase, done)

    def _alpha_step(self, phase: Phase, x: Tensor, y: Tensor, ahead: Ahead) -> None:
        draw = self.lookahead.alpha(phase.mode)
        check = self._loss_check("loss of the alpha step", phase, x, draw.path)
        result = self.graphs.alpha_step(
            self.network,
            self.alpha,
            x,
            y,
            draw,
            finish=self.estimator.finish,
            regularizers=self.regularizers,
            ahead=ahead if self.config.alpha_order == "second" else None,
            check=check,
            processes=self.processes,
            objective=self.objective,
            precision=self.config.precision,
        )
        self.alpha_meter.add(result)
        self.selector.cool()
        self.lookahead.prepare("weight", phase.mode)
        if check and not self.selector.logits().isfinite().all():
            raise self._diverged("alpha is not finite", phase, x, self._path_of(phase, draw.path))
        self.progress.alpha_steps += 1

    def _beta_decay(self) -> Tensor:
        search = first_search(self.phases)
        ramp = min(1.0, (self.progress.epoch + 1 - search.first) / search.epochs) if search else 0.0
        return beta_decay(self.selector.logits(), self.config.beta_decay * ramp)

    def _over_budget(self) -> Tensor:
        return self.config.budget_weight * self.budget.penalty(self.network, self.selector.logits())

    def best_path(self) -> list[int]:
        """The most probable architecture that keeps the budget, as candidates by row of alpha (`choose`, `derive`)."""
        if self.deriving:
            return self.selector.best_path()
        scores = self.selector.logits().detach().log_softmax(1)
        return self.budget.choose(self.network, scores)

    def final_path(self, among: int) -> list[int]:
        """The best on the validation images of the most probable architecture and up to `among` others, drawn by their
        probability; with 0 the most probable, without measuring."""
        scores = self.selector.logits().detach().log_softmax(1)
        paths = likely_paths(lambda s: self.budget.choose(self.network, s), scores, among, self.config.seed)
        return max(paths, key=self._path_accuracy) if len(paths) > 1 else paths[0]

    def _path_accuracy(self, path: list[int]) -> float:
        derived = self.network.derive(path)
        self.calibrate(derived)
        return self._valid_accuracy(derived)

    def _path_of(self, phase: Phase, path: list[int] | None) -> list[int] | None:
        """That of a step; of a mixture the most probable, of a derived network none."""
        return None if phase.derives else path or self.best_path()

    def _loss_check(self, what: str, phase: Phase, x: Tensor, path: list[int] | None) -> LossCheck | None:
        """Raises SearchDivergedError when called; None where reading the loss would make the host wait: there `watch`
        tells within 100 steps, and no checkpoint is written without a look at every parameter."""
        if self.device.type != "cpu":
            return None

        def check(loss: Tensor) -> None:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._diverged(f"the {what} is {value}", phase, x, self._path_of(phase, path))

        return check

    def _gradient_check(self, phase: Phase) -> GradientCheck:
        """Raises SearchDivergedError when called, before the weights are spoiled."""

        def check(norm: Tensor) -> None:
            if not math.isfinite(float(norm)):
                place = nonfinite_gradient(self._named_parameters()) or "the norm of the gradient"
                raise SearchDivergedError(f"{place} is not finite {self._when(phase)}, though the loss was")

        return check

    def _named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Of the network, by the names that its owner knows."""
        return self.network.named_parameters()

    def _watched(self) -> list[Tensor]:
        """Sums that are finite as long as every loss and alpha is."""
        return [self.weight_meter.loss_sum, self.alpha_meter.loss_sum, self.selector.logits().sum()]

    def _require_finite(self, phase: Phase) -> None:
        """Raises SearchDivergedError where a checkpoint of the present state would replace a good one."""
        tensors = [*self.network.parameters(), *self.selector.alpha]
        if not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
            x, _ = next(self.data.train.batches(self.progress.epoch, augment=False))
            path = None if phase.derives else self.best_path()
            raise self._diverged("a parameter is not finite", phase, x, path)

    def _diverged(self, what: str, phase: Phase, x: Tensor, path: list[int] | None) -> SearchDivergedError:
        place = nonfinite_gradient(self._named_parameters())
        if place and not all(bool(p.isfinite().all()) for _, p in self._named_parameters()):
            return SearchDivergedError(f"{what} {self._when(phase)}: first not finite, a step before: {place}")
        if not len(x):
            x, _ = next(self.data.train.batches(self.progress.epoch, augment=False))
        with on_its_own(self.network):
            place = self._first_nonfinite(x, path)
        return SearchDivergedError(f"{what} {self._when(phase)}: first not finite is {place}")

    def _when(self, phase: Phase) -> str:
        return f"in phase {phase.name}, epoch {self.progress.epoch + 1}, after {self.progress.step} steps of it"

    def _first_nonfinite(self, x: Tensor, path: list[int] | None) -> str:
        return first_nonfinite(self.network, self.selector.logits(), x, path)

    def _require_same(self) -> None:
        """Raises ProcessesDifferError where the processes differ, and gives all the same running statistics.

        Those of the first are taken, as DistributedDataParallel does: no evaluation reads any that were not
        recalibrated, but so its checkpoint is the state of every process.
        """
        if self.processes.count == 1:
            return
        self.processes.check_same(
            {
                "genotype": digest(repr((self.network.spec, self.best_path())).encode()),
                "alpha": digest(*self.selector.alpha),
                "weights": digest(*self.network.parameters()),
            }
        )
        self.processes.copy_from_first(self.network.buffers())

    def _end_epoch(self, phase: Phase) -> None:
        self.lookahead.forget()
        self._require_finite(phase)
        self._require_same()
        measured = self._measure(phase)
        record = self.processes.from_first(lambda: measured)  # times are not the same in all processes
        turned_back = self.guard.examine(self, phase, record)
        if phase.grows and not turned_back and not self.guard.frozen:
            record["growth"] = self._grow_if_stalled(phase, record["valid_accuracy"])
        self.history.append(record)
        progress = self.progress
        improved = record["valid_accuracy"] > progress.best_accuracy and not turned_back
        if improved:
            progress.best_accuracy = record["valid_accuracy"]
        progress.epoch, progress.step, progress.epoch_seconds = progress.epoch + 1, 0, 0.0
        self.weight_meter.reset()
        self.alpha_meter.reset()
        tell(self.observers, "on_epoch_end", self, record)
        if improved and phase.derives:
            state = self.network.state_dict().items()  # with what a module's get_extra_state gives, of any type
            values = {name: value.clone() if isinstance(value, Tensor) else deepcopy(value) for name, value in state}
            self.best = {"spec": self.network.spec.to_dict(), "network": values}
        self.save("last")

    def _measure(self, phase: Phase) -> Record:
        """The metrics of an epoch; the network's batch-norm statistics become those of the derived path."""
        waited, alone = time.perf_counter(), phase.rules.updates == "alpha"
        loss, train_accuracy = (self.alpha_meter if alone else self.weight_meter).read()
        self.progress.epoch_seconds += time.perf_counter() - waited  # for the steps that a GPU had still to do
        derived = self.derived()
        self.calibrate(derived)
        entropy, max_prob = self.selector.monitor()
        progress, meters = self.progress, (self.weight_meter, self.alpha_meter)
        record: Record = {
            "epoch": progress.epoch + 1,
            "phase": phase.name,
            "train_loss": loss,
            "train_accuracy": train_accuracy,
            "valid_accuracy": self._valid_accuracy(derived),
            "metric": self._metric(),
            "temperature": self._reported_temperature(phase),
            "entropy": float(entropy.mean()),
            "max_weight": float(max_prob.mean()),
            "entropy_by_layer": entropy.tolist(),
            "max_weight_by_layer": max_prob.tolist(),
            "candidates": len(self.selector.candidates),
            "idle_mass": idle_mass(self.selector.logits().detach().softmax(1), self.selector.candidates),
            "curvature": self._curvature(phase),
            "path": list(derived.operations),
            "learning_rate": self._learning_rate(phase),
            "alpha_steps": progress.alpha_steps,
            "batch_size_errors": sum(m.size_errors for m in meters),
            "seconds": progress.epoch_seconds,
            "images_per_second": sum(m.images for m in meters) / progress.epoch_seconds,
        }
        found = health.indicators(self.config, self._classes(), record, self.history)
        record["health"] = [dataclasses.asdict(indicator) for indicator in found]
        return record

    def _classes(self) -> int | None:
        """How many there are, if what is counted are right predictions."""
        return len(self.data.classes)

    def _metric(self) -> Metric:
        """What is called accuracy."""
        return "accuracy"

    def _curvature(self, phase: Phase) -> float | None:
        """On the first validation images, where it is the turn of this epoch."""
        every = self.config.curvature_every
        if not phase.searching or not every or (self.progress.epoch + 1) % every:
            return None
        x, y = next(self.data.valid.batches(0, shuffle=False, augment=False))
        return curvature(self.network, x, y, self.selector.logits().detach(), self.objective)

    def _valid_accuracy(self, network: Supernet) -> float:
        turns = self.processes.part
        batches = self.data.valid.batches(0, shuffle=False, augment=False, turns=turns)
        return accuracy(network, batches, self.processes)

    def _reported_temperature(self, phase: Phase) -> float:
        return self.config.temperature_floor if phase.derives else self.selector.temperature

    def derived(self) -> Supernet:
        """The network of the most probable candidates; in optimize, the network itself."""
        if self.deriving:
            return self.network
        return self.network.derive(self.best_path())

    def calibrate(self, network: Supernet) -> None:
        """Gives `network` batch-norm statistics of its own, from training images without augmentation."""
        batches = self.data.train.batches(self.progress.epoch, augment=False, turns=self.processes.part)
        recalibrate(network, batches, self.config.recalibration_batches, self.processes)

    def best_network(self) -> Supernet:
        """The derived network of the optimize epoch with the best validation accuracy, in evaluation mode.

        Raises ValueError before the first such epoch.
        """
        if self.best is None:
            raise ValueError("there is no best network before the end of the first epoch of the phase optimize")
        network = self._rebuilt(self.best["spec"])
        network.load_state_dict(self.best["network"])
        return network.to(self.device).eval()

    def _grow_if_stalled(self, phase: Phase, valid_accuracy: float) -> Record | None:
        """Grows where accuracy has stalled, unless too few epochs are left for what is new to learn anything."""
        time_left = phase.end - (self.progress.epoch + 1) >= self.config.growth_patience
        if not self.stall.stalled(self.config, valid_accuracy) or not time_left:
            return None
        if self.growth is None or not isinstance(self.network, Network):
            return None
        return self.growth.grow(self.network, self.selector, self.weights, self.alpha, self.history)

    def save(self, name: str) -> None:
        """Has the first process write `checkpoints/<name>.pt`, for which the others wait.

        "last" is also kept under its epoch and step, with as many before it as configured.

        Raises CheckpointError.
        """
        self.processes.from_first(lambda: self._write(name))
        if name == "last":
            self.cadence.restart()

    def _write(self, name: str) -> None:
        if name != "last":
            checkpoint.save(self.checkpoints / f"{name}.pt", self.state_dict())
            return
        progress, keep = self.progress, self.config.checkpoints_kept
        checkpoint_folder.save_newest(self.checkpoints, progress.epoch, progress.step, self.state_dict(), keep)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        return {
            "config": self.config.to_dict(),
            "provenance": provenance.collect(self.data, self.device),
            **self.search_state(),
            "guard": self.guard.state_dict(),
            "progress": dataclasses.asdict(self.progress),
            "stall": dataclasses.asdict(self.stall),
            "weight_meter": self.weight_meter.state_dict(),
            "alpha_meter": self.alpha_meter.state_dict(),
            "history": self.history,
            "best": self.best,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def search_state(self) -> dict[str, Any]:
        """The network, the architecture and their optimizers."""
        self.lookahead.forget()
        return {
            "spec": self.network.spec.to_dict(),
            "network": self.network.state_dict(),
            "selector": self.selector.state_dict(),
            "estimator": self.estimator.state_dict(),
            "weight_optimizer": named_state(self.weights, dict(self.network.named_parameters())),
            "alpha_optimizer": named_state(self.alpha, self._named_alpha()),
        }

    def _load_search_state(self, state: dict[str, Any]) -> None:
        self.selector.load_state_dict(state["selector"])
        self.estimator.load_state_dict(state["estimator"])
        self._install(self._rebuilt(state["spec"]))
        self.network.load_state_dict(state["network"])
        load_named_state(self.weights, dict(self.network.named_parameters()), state["weight_optimizer"])
        load_named_state(self.alpha, self._named_alpha(), state["alpha_optimizer"])

    def return_to(self, state: dict[str, Any]) -> None:
        """Goes on from an earlier `search_state`, with draws that have not been made yet."""
        rng, generator = self.selector.rng.clone(), self.selector.generator.get_state()
        self._load_search_state(state)
        self.selector.rng = rng
        self.selector.generator.set_state(generator)

    def _named_alpha(self) -> dict[str, Tensor]:
        return {str(layer): row for layer, row in enumerate(self.selector.alpha)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`, for a trainer of the same config and data."""
        self.progress, self.stall = Progress(**state["progress"]), StallCounter(**state["stall"])
        self.history = list(state["history"])
        self.guard.load_state_dict(state["guard"])
        self._load_search_state(state)
        self._sample_apart()
        self.weight_meter.load_state_dict(state["weight_meter"])
        self.alpha_meter.load_state_dict(state["alpha_meter"])
        self.best = state["best"]
        torch.set_rng_state(state["torch_rng"])
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
