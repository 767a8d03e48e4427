"""The four-phase search: warmup, search, growth, optimize (DESIGN section 2)."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from asose_fast import checkpoint, checkpoint_folder, provenance
from asose_fast.config import Config
from asose_fast.data import Data
from asose_fast.search import health
from asose_fast.search.budget import BudgetKeeper
from asose_fast.search.cadence import Cadence
from asose_fast.search.collapse import idle_mass
from asose_fast.search.curvature import curvature
from asose_fast.search.diverged import SearchDivergedError, first_nonfinite
from asose_fast.search.estimators import make_estimator
from asose_fast.search.evaluate import accuracy, recalibrate
from asose_fast.search.final_choice import likely_paths
from asose_fast.search.growth import StallCounter
from asose_fast.search.growth_control import GrowthControl
from asose_fast.search.guard import Guard
from asose_fast.search.meter import Meter
from asose_fast.search.optimizers import (
    alpha_learning_rate,
    alpha_optimizer,
    learning_rate,
    load_named_state,
    named_state,
    weight_optimizer,
)
from asose_fast.search.phases import Phase, phase_at, plan
from asose_fast.search.processes import Processes, digest
from asose_fast.search.regularizers import beta_decay
from asose_fast.search.selector import Selector
from asose_fast.search.steps import Ahead, LossCheck, Regularizer, alpha_step, weight_step
from asose_fast.search.sync_batch_norm import on_its_own, synchronise
from asose_fast.space.build import Supernet, build, make_spec, spec_from_dict
from asose_fast.space.network import Network, NetworkSpec

Record = dict[str, Any]


class Observer(Protocol):
    """Is told what happens in a run: console, metrics file, TensorBoard."""

    def on_epoch_start(self, trainer: Trainer, phase: Phase) -> None: ...

    def on_step(self, trainer: Trainer) -> None: ...

    def on_epoch_end(self, trainer: Trainer, record: Record) -> None: ...


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
    best_accuracy: float = -1.0
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
        """
        self.config, self.data, self.device, self.observers = config, data, device, list(observers)
        self.processes = processes or Processes()
        for setting, only in (("estimator", "local_score"), ("alpha_order", "second")):
            if self.processes.count > 1 and getattr(config, setting) == only:
                raise ValueError(f"{setting}: {only} runs in one process, got {self.processes.count}")
        self.checkpoints = folder / "checkpoints"
        self.phases = plan(config)
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
        torch.manual_seed(config.seed)
        spec = make_spec(config, data.channels, len(data.classes))
        self.selector = Selector(config, config.candidates, spec.rows, config.seed, device)
        self.growth = None  # networks of cells do not grow
        if isinstance(spec, NetworkSpec):
            self.growth = GrowthControl(config, spec, data.image_size, self.budget.budget)
        self._sample_apart()
        self._install(build(spec))
        self.best_path()  # a budget that no network can keep is refused here

    def _sample_apart(self) -> None:
        if not self.config.share_samples:
            self.selector.draw_apart(self.processes.rank)

    def _install(self, network: Supernet) -> None:
        """Makes `network` the one that is trained, with fresh optimizers."""
        self.network: Supernet = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.weights = weight_optimizer(self.config, self.network)
        steps = self.phases[1].epochs * self.data.train.num_batches() // (self.config.alpha_every - 1)
        rate = alpha_learning_rate(self.config, steps) * self.guard.alpha_rate
        self.alpha = alpha_optimizer(self.selector.alpha, rate)

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return self.phases[-1].end

    def stop(self, reason: signal.Signals) -> None:
        """Asks the run to write a checkpoint after the present step and raise InterruptedRunError, in all processes."""
        self.processes.stop(reason)

    def run(self) -> None:
        """Goes on from the present state to the end of the last phase.

        Raises SearchDivergedError, InterruptedRunError or CheckpointError; what was checkpointed stays.
        """
        while self.progress.epoch < self.epochs:
            phase = phase_at(self.phases, self.progress.epoch)
            self._enter(phase)
            for observer in self.observers:
                observer.on_epoch_start(self, phase)
            self._train_epoch(phase)
            self._end_epoch(phase)

    def _enter(self, phase: Phase) -> None:
        if self.progress.phase == phase.name:
            return
        if phase.name == "optimize":
            self.save("supernet")  # what `asose_fast.derive` goes on from
            path = self.final_path(self.config.derive_among)
        self.progress.phase = phase.name
        if phase.name == "search":
            self.selector.perturb()
        elif phase.name == "optimize":
            momentum = self.weights.state
            self._install(self.network.derive(path))
            for parameter in self.network.parameters():
                if parameter in momentum:
                    self.weights.state[parameter] = momentum[parameter]
            self.progress.best_accuracy = -1.0

    def _train_epoch(self, phase: Phase) -> None:
        progress, started = self.progress, time.perf_counter()
        before = progress.epoch_seconds
        self.network.train()
        if self.config.sync_batch_norm and self.processes.count > 1:
            synchronise(self.network, self.processes)  # again in every epoch: a block may have grown since
        held_out = self._held_out_batches() if phase.searching else None
        augment, part = self.config.augment, self.processes.part
        batches = self.data.train.batches(progress.epoch, start=progress.step, augment=augment, part=part)
        for x, y in batches:
            self._weight_step(phase, x, y)
            progress.step += 1
            progress.since_alpha += phase.searching
            if held_out and progress.since_alpha == self.config.alpha_every - 1:
                self._alpha_step(phase, *next(held_out), Ahead(self.weights, x, y))
                progress.since_alpha = 0
            progress.epoch_seconds = before + time.perf_counter() - started
            for observer in self.observers:
                observer.on_step(self)
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
        for group in self.weights.param_groups:
            group["lr"] = self._learning_rate(phase)
        path, mixture = None, None
        if phase.name != "optimize":
            mixture = self.estimator.mixture(self.selector, phase.name)
            path = self.selector.path(phase.name) if mixture is None else self.best_path()
        check = self._loss_check("loss", progress.step, phase, x, path)
        result = weight_step(
            self.network,
            self.weights,
            x,
            y,
            path,
            mixture=mixture,
            clip=self.config.gradient_clip,
            check=check,
            processes=self.processes,
        )
        self.weight_meter.add(result)

    def _learning_rate(self, phase: Phase) -> float:
        done = self.progress.epoch + self.progress.step / self.data.train.num_batches()
        return learning_rate(self.config, self.phases, phase, done)

    def _alpha_step(self, phase: Phase, x: Tensor, y: Tensor, ahead: Ahead) -> None:
        draw = self.estimator.draw(self.selector, phase.name)
        path = draw.path or self.best_path()
        check = self._loss_check("loss of the alpha step", self.progress.alpha_steps, phase, x, path)
        result = alpha_step(
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
        )
        self.alpha_meter.add(result)
        self.selector.cool()
        if check and not self.selector.logits().isfinite().all():
            raise self._diverged("alpha is not finite", phase, x, path)
        self.progress.alpha_steps += 1

    def _beta_decay(self) -> Tensor:
        search = self.phases[1]
        ramp = min(1.0, (self.progress.epoch + 1 - search.first) / search.epochs)
        return beta_decay(self.selector.logits(), self.config.beta_decay * ramp)

    def _over_budget(self) -> Tensor:
        return self.config.budget_weight * self.budget.penalty(self.network, self.selector.logits())

    def best_path(self) -> list[int]:
        """The most probable architecture that keeps the budget, as candidates by row of alpha (`choose`, `derive`)."""
        if self.progress.phase == "optimize":
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

    def _loss_check(self, what: str, step: int, phase: Phase, x: Tensor, path: list[int] | None) -> LossCheck | None:
        """Raises SearchDivergedError when called; None where reading the loss would make the host wait too often."""
        if self.device.type != "cpu" and step % 50:
            return None

        def check(loss: Tensor) -> None:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._diverged(f"the {what} is {value}", phase, x, path)

        return check

    def _require_finite(self, phase: Phase) -> None:
        """Raises SearchDivergedError where a checkpoint of the present state would replace a good one."""
        tensors = [*self.network.parameters(), *self.selector.alpha]
        if not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
            x, _ = next(self.data.train.batches(self.progress.epoch, augment=False))
            path = None if phase.name == "optimize" else self.best_path()
            raise self._diverged("a parameter is not finite", phase, x, path)

    def _diverged(self, what: str, phase: Phase, x: Tensor, path: list[int] | None) -> SearchDivergedError:
        where = f"in phase {phase.name}, epoch {self.progress.epoch + 1}, after {self.progress.step} steps of it"
        if not len(x):
            x, _ = next(self.data.train.batches(self.progress.epoch, augment=False))
        with on_its_own(self.network):
            place = first_nonfinite(self.network, self.selector.logits(), x, path)
        return SearchDivergedError(f"{what} {where}: first not finite is {place}")

    def _require_same(self) -> None:
        """Gives all processes the same running statistics, and raises ProcessesDifferError where they differ in more.

        Those of the first are taken, as DistributedDataParallel does: no evaluation reads any that were not
        recalibrated, but so its checkpoint is the state of every process.
        """
        if self.processes.count == 1:
            return
        self.processes.copy_from_first(self.network.buffers())
        self.processes.check_same(
            {
                "genotype": digest(repr((self.network.spec, self.best_path())).encode()),
                "alpha": digest(*self.selector.alpha),
                "weights": digest(*self.network.parameters()),
            }
        )

    def _end_epoch(self, phase: Phase) -> None:
        self._require_finite(phase)
        self._require_same()
        measured = self._measure(phase)
        record = self.processes.from_first(lambda: measured)  # times are not the same in all processes
        turned_back = self.guard.examine(self, phase, record)
        if phase.name == "growth" and not turned_back and not self.guard.frozen:
            record["growth"] = self._grow_if_stalled(phase, record["valid_accuracy"])
        self.history.append(record)
        progress = self.progress
        improved = record["valid_accuracy"] > progress.best_accuracy and not turned_back
        if improved:
            progress.best_accuracy = record["valid_accuracy"]
        progress.epoch, progress.step, progress.epoch_seconds = progress.epoch + 1, 0, 0.0
        self.weight_meter.reset()
        self.alpha_meter.reset()
        for observer in self.observers:
            observer.on_epoch_end(self, record)
        if improved and phase.name == "optimize":
            tensors = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            self.best = {"spec": self.network.spec.to_dict(), "network": tensors}
        self.save("last")

    def _measure(self, phase: Phase) -> Record:
        """The metrics of an epoch; the network's batch-norm statistics become those of the derived path."""
        loss, train_accuracy = self.weight_meter.read()
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
        found = health.indicators(self.config, len(self.data.classes), record, self.history)
        record["health"] = [dataclasses.asdict(indicator) for indicator in found]
        return record

    def _curvature(self, phase: Phase) -> float | None:
        """On the first validation images, where it is the turn of this epoch."""
        every = self.config.curvature_every
        if not phase.searching or not every or (self.progress.epoch + 1) % every:
            return None
        x, y = next(self.data.valid.batches(0, shuffle=False, augment=False))
        return curvature(self.network, x, y, self.selector.logits().detach())

    def _valid_accuracy(self, network: Supernet) -> float:
        turns = self.processes.part
        batches = self.data.valid.batches(0, shuffle=False, augment=False, turns=turns)
        return accuracy(network, batches, self.processes)

    def _reported_temperature(self, phase: Phase) -> float:
        return self.config.temperature_floor if phase.name == "optimize" else self.selector.temperature

    def derived(self) -> Supernet:
        """The network of the most probable candidates; in optimize, the network itself."""
        if self.progress.phase == "optimize":
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
        network = build(spec_from_dict(self.best["spec"]))
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
        self._install(build(spec_from_dict(state["spec"])))
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
