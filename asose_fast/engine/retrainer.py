"""Training a derived architecture from scratch."""

from __future__ import annotations

import dataclasses
import math
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asose_fast.bounds import MOST_EPOCHS, MOST_LAYERS, MOST_SECONDS, bounded
from asose_fast.config import CheckpointConfig, Config, LatencyConfig
from asose_fast.data import Data, Split
from asose_fast.data.config import DataConfig
from asose_fast.data.place import without_place
from asose_fast.engine import randomness
from asose_fast.engine.deadline import Deadline
from asose_fast.engine.evaluate import accuracy
from asose_fast.engine.loop import Loop
from asose_fast.engine.observer import Observer
from asose_fast.engine.one_value import require_more
from asose_fast.engine.phases import Phase, PhaseSpec, schedule, with_epochs
from asose_fast.engine.processes import Processes
from asose_fast.engine.progress import Progress
from asose_fast.engine.recipe.average import WeightAverage
from asose_fast.engine.recipe.recipe import Recipe
from asose_fast.engine.recipe.teacher import Taught, without_path
from asose_fast.engine.record import Record
from asose_fast.engine.step.meter import Meter
from asose_fast.engine.step.optimizers import (
    learning_rate,
    load_named_state,
    named_state,
    set_learning_rate,
    weight_optimizer,
)
from asose_fast.engine.step.precision import Precision
from asose_fast.engine.step.steps import StepResult, weight_step
from asose_fast.engine.tested.answers import Answers, answers
from asose_fast.space.auxiliary import Auxiliary
from asose_fast.space.build import ImageNetwork, Spec, build
from asose_fast.store.checkpoint import CheckpointError
from asose_fast.store.provenance import Provenance, collect
from asose_fast.training_config import OptimizerConfig, RecipeConfig, require_momentum

PHASE = "retrain"
"""A training from scratch is one phase of this name."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig(RecipeConfig):
    """How an architecture is trained from scratch."""

    epochs: int = bounded(100, least=1, most=MOST_EPOCHS)
    """The whole training has so many epochs."""
    seconds: float | None = bounded(None, above=0, most=MOST_SECONDS)
    """The training takes about so many seconds in all, in as many epochs as this machine does in the time. None: it
    takes as long as its `epochs` do."""
    batch_size: int = bounded(96, least=2, most=10**6)
    """A step takes so many images."""
    learning_rate: float = bounded(0.025, least=0, most=1e30)
    """The learning rate begins at this and falls to 0 along a cosine."""
    momentum: float = bounded(0.9, least=0, most=1)
    """The steps have this momentum."""
    weight_decay: float = bounded(3e-4, least=0, most=1e30)
    """The weights decay by this factor of the learning rate in each step."""
    gradient_clip: float = bounded(5.0, least=0, most=1e30)
    """The norm of the gradient is at most this; 0: no bound."""
    drop_path: float = bounded(0.0, least=0, below=1)
    """An image takes a block's shortcut alone with this probability at the end; it rises linearly from 0."""
    auxiliary: float = bounded(0.0, least=0, most=1e30)
    """The loss of a second classifier two thirds of the way through has this weight; 0: none. DARTS takes 0.4."""
    channels: int | None = bounded(None, least=1, most=65536)
    """The stem has so many channels; the other widths follow in proportion. None: as in the genotype."""
    cells: int | None = bounded(None, least=1, most=MOST_LAYERS)
    """An architecture given as text has so many cells in all (darts: 20) or in each stage (nasbench201: 5)."""
    keep_validation: bool = False
    """Leave the validation images out of the training, and measure on them at the end of every epoch."""
    seed: int = bounded(0, least=-(2**63), most=2**63 - 1)
    """All that is random is drawn from this seed."""
    device: str = "auto"
    """The device is cpu, cuda, cuda:N, or auto: cuda where there is one."""
    precision: Precision = "fp32"
    """The forward and backward pass compute in float32 or, for bf16, in bfloat16 wherever autocast allows it."""
    threads: int | None = bounded(None, least=1, most=1024)
    """The training has so many CPU threads; by default as in a search."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_momentum(self, self.momentum)


@dataclasses.dataclass(frozen=True)
class RetrainConfig(LatencyConfig, TrainingConfig, DataConfig):
    """Every setting of `asose-fast retrain`. Raises ValueError for one of another type or out of bounds."""


class Trained(nn.ModuleList):
    """The optimizer trains a network and, maybe, its auxiliary classifier."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns the scores (N, classes) of both; None for the second, whose last norm takes no single image."""
        scores: Tensor = self[0](x)
        return scores, self[1]() if len(self) > 1 and len(x) > 1 else None


class TrainingState:
    """The rest of a training from scratch depends on this state alone.

    Attributes:
        config: all settings.
        data: the splits; `train` has the validation images too, unless they are kept out.
        network: what is trained, without the auxiliary classifier.
        average: its moving average, which is measured and kept in its place; None: there is none.
        optimizer: SGD or AdamW over both.
        progress: epoch and step.
        weight_meter: sums over the steps of the epoch.
        history: the records of all epochs.
        restored: whether it stands where a checkpoint did.
        deadline: when the training is to end; None: it takes as long as its epochs do.
    """

    def __init__(
        self, config: RetrainConfig, spec: Spec, data: Data, device: torch.device, teacher: nn.Module | None = None
    ) -> None:
        """Takes a module to learn from as `ImageTask` does, in place of a path in the settings.

        Raises ValueError for an architecture with a choice left, or one that does not fit the data, and as
        `Recipe.make` does.
        """
        if not spec.derived:
            raise ValueError("only an architecture with no choice left can be trained from scratch")
        if (spec.in_channels, spec.classes) != (data.channels, len(data.classes)):
            raise ValueError(
                f"the architecture is for {spec.in_channels} channels and {spec.classes} classes, the data have "
                f"{data.channels} and {len(data.classes)}"
            )
        torch.manual_seed(config.seed)
        self.config, self.device, self.processes = config, device, Processes()
        self.data = data if config.keep_validation else data.joined
        self.recipe = Recipe.make(config, config.seed, self.data, device, teacher)
        self.phases = schedule([PhaseSpec(PHASE, config.epochs, updates="weights", architecture="derived")])
        network = build(spec.scaled(config.channels))
        self.network: ImageNetwork = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = WeightAverage(self.network, config.ema_decay) if config.ema_decay else None
        auxiliary = [Auxiliary(self.network).to(device)] if config.auxiliary else []
        self.trained = Trained([self.network, *auxiliary])
        self._rates = OptimizerConfig(config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)
        self.optimizer = weight_optimizer(self._rates, self.trained, config)
        self.progress, self.weight_meter = Progress(), Meter(device, losses=torch.float32)
        self.history: list[Record] = []
        self.restored = False
        self.deadline: Deadline | None = None
        require_more(self.network, 1, (self.data.train,), data.image_size)

    @property
    def images(self) -> Split:
        """The training has these images."""
        return self.data.train

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, as in YAML."""
        return dataclasses.asdict(self.config)

    def provenance(self) -> Provenance:
        """Returns with what the training is computed, and on what."""
        return collect(self.data, self.device)

    @property
    def epochs(self) -> int:
        """The whole training has so many epochs."""
        return self.phases[-1].end

    def plan_again(self, epochs: Sequence[int]) -> None:
        """Gives the training so many epochs."""
        self.phases = with_epochs(self.phases, epochs)
        self.config = dataclasses.replace(self.config, epochs=self.epochs)

    def stop(self, reason: signal.Signals) -> None:
        """Asks the training to write a checkpoint after the present step and raise InterruptedRunError."""
        self.processes.stop(reason)

    def learning_rate(self, phase: Phase) -> float:
        """Returns the learning rate at the present step, on a linear rise and a cosine to 0."""
        done = self.progress.epochs_done(self.data.train.num_batches())
        return learning_rate(self._rates, self.phases, phase, done, self.config.warmup_share)

    @property
    def result(self) -> ImageNetwork:
        """What is measured and kept: the network as it is, or its average."""
        return self.average.network if self.average else self.network

    def answers(self) -> Answers:
        """Returns what the result says of the test images. They are to be read once, at the end."""
        return answers(self.result, self.data.test)

    def test_accuracy(self) -> float:
        """Returns the accuracy of the result on the test images, likewise."""
        return self.answers().accuracy

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the rest of the training depends on."""
        return {
            "retrain": dataclasses.asdict(self.config),
            "digest": self.data.digest,
            **self.recipe.identity,
            "provenance": self.provenance(),
            "spec": self.network.spec.to_dict(),
            "trained": self.trained.state_dict(),
            "optimizer": named_state(self.optimizer, dict(self.trained.named_parameters())),
            "history": self.history,
            **randomness.state_dict(self.device),
            "progress": dataclasses.asdict(self.progress),
            "weight_meter": self.weight_meter.state_dict(),
            **({"average": self.average.state_dict()} if self.average else {}),
            **({"deadline": self.deadline.state_dict()} if self.deadline else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverts `state_dict`. Raises CheckpointError where settings, architecture or data are others."""
        there = Config.completed(state.get("retrain", {}), self.settings)  # an older release knew fewer settings
        if self.config.seconds is not None and self.config.seconds == there["seconds"]:
            self.plan_again([there["epochs"]])
        settings = self.settings
        for same, what in (
            (without_path(without_place(there)) == without_path(without_place(settings)), "other settings"),
            (state.get("teacher") == self.recipe.identity.get("teacher"), "another teacher"),
            (state.get("digest") == self.data.digest, "other images"),
            (state.get("spec") == self.network.spec.to_dict(), "another architecture"),
        ):
            if not same:
                raise CheckpointError(f"it was begun with {what}: give another --out")
        self.restored = True
        self.trained.load_state_dict(state["trained"])
        load_named_state(self.optimizer, dict(self.trained.named_parameters()), state["optimizer"])
        self.history = list(state["history"])
        if "deadline" in state:
            self.deadline = Deadline(**state["deadline"])
        self.progress = Progress(epoch=len(self.history))  # of an older release, which wrote at the ends of epochs
        if "progress" in state:
            self.progress = Progress(**state["progress"])
            self.weight_meter.load_state_dict(state["weight_meter"])
        randomness.restore(state, self.device)
        if self.average:
            self.average.load_state_dict(state["average"])


class Retrainer(Loop[TrainingState]):
    """Trains a derived architecture from its initialisation; can stop and go on anywhere."""

    def __init__(
        self, state: TrainingState, folder: str | Path | None = None, observers: Sequence[Observer] = ()
    ) -> None:
        """Takes its arguments as `Loop` does. The newest checkpoint alone is kept."""
        super().__init__(state, CheckpointConfig(checkpoints_kept=1), folder, observers)

    def _batches(self, phase: Phase) -> Iterator[tuple[Tensor, Tensor]]:
        state, config, epoch = self.state, self.state.config, self.state.progress.epoch
        state.network.set_drop_path(config.drop_path * epoch / max(1, config.epochs - 1))
        state.trained.train()
        return state.data.train.batches(epoch, start=state.progress.step)

    def _step(self, phase: Phase, x: Tensor, y: Tensor) -> None:
        state, config, progress = self.state, self.state.config, self.state.progress
        set_learning_rate(state.optimizer, state.learning_rate(phase))
        images, targets = state.recipe.batch(x, y, progress.epoch, progress.step)
        result = weight_step(
            state.trained,
            state.optimizer,
            images,
            targets,
            None,
            clip=config.gradient_clip,
            objective=self._objective,
            precision=config.precision,
        )
        if state.average:
            state.average.update(state.network)
        state.weight_meter.add(result)
        progress.step += 1

    def _objective(self, outputs: tuple[Tensor, Tensor | None], y: Tensor | Taught) -> StepResult:
        """Returns the cross-entropy of the network's scores and, weighted, of those of the auxiliary classifier."""
        (scores, second), objective = outputs, self.state.recipe.objective
        result = objective(scores.float(), y)
        if second is None:
            return result
        return result._replace(loss=result.loss + self.state.config.auxiliary * objective(second.float(), y).loss)

    def _end_epoch(self, phase: Phase) -> None:
        """Raises ValueError where the loss has stopped being a number."""
        state, progress = self.state, self.state.progress
        mean_loss, train_accuracy = progress.timed(state.weight_meter.read)
        if not math.isfinite(mean_loss):
            raise ValueError(
                f"the loss is {mean_loss} in epoch {progress.epoch + 1}: lower learning_rate "
                f"({state.config.learning_rate})"
            )
        record: Record = {
            "epoch": progress.epoch + 1,
            "train_loss": mean_loss,
            "train_accuracy": train_accuracy,
            "learning_rate": state.optimizer.param_groups[0]["lr"],
            "seconds": progress.epoch_seconds,
            "images_per_second": state.weight_meter.images / progress.epoch_seconds,
        }
        if state.config.keep_validation:
            batches = state.data.valid.batches(0, shuffle=False, augment=False)
            record["valid_accuracy"] = accuracy(state.result, batches)
        self._close_epoch(record)
        self.save("last")
