"""Training a derived architecture from scratch."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from asose_fast import checkpoint_folder
from asose_fast.bounds import MOST_EPOCHS, MOST_LAYERS, Settings, bounded
from asose_fast.checkpoint import CheckpointError
from asose_fast.config import OptimizerConfig
from asose_fast.data import Data
from asose_fast.data.config import DataConfig
from asose_fast.data.cutout import cut_out
from asose_fast.data.seeds import generator
from asose_fast.search.evaluate import accuracy
from asose_fast.search.one_value import require_more
from asose_fast.search.optimizers import load_named_state, named_state, weight_optimizer
from asose_fast.search.precision import Precision, computing
from asose_fast.space.auxiliary import Auxiliary
from asose_fast.space.build import ImageNetwork, Spec, build

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Settings):
    """How an architecture is trained from scratch."""

    epochs: int = bounded(100, least=1, most=MOST_EPOCHS)
    """The whole training has so many epochs."""
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
    label_smoothing: float = bounded(0.0, least=0, below=1)
    """This share of the target goes to all classes alike."""
    cutout: int = bounded(0, least=0, most=10**4)
    """A square of this side, in pixels, is blanked in every training image; 0: none."""
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
    """The training has so many CPU threads; by default as many as torch takes."""


@dataclasses.dataclass(frozen=True)
class RetrainConfig(TrainingConfig, DataConfig):
    """Every setting of `asose-fast retrain`. Raises ValueError for one of another type or out of bounds."""


class Retrainer:
    """Trains a derived architecture from its initialisation; can stop and go on at any epoch's end."""

    def __init__(self, config: RetrainConfig, spec: Spec, data: Data, device: torch.device) -> None:
        """Raises ValueError for an architecture with a choice left, or one that does not fit the data."""
        if not spec.derived:
            raise ValueError("only an architecture with no choice left can be trained from scratch")
        if (spec.in_channels, spec.classes) != (data.channels, len(data.classes)):
            raise ValueError(
                f"the architecture is for {spec.in_channels} channels and {spec.classes} classes, the data have "
                f"{data.channels} and {len(data.classes)}"
            )
        torch.manual_seed(config.seed)
        self.config, self.data, self.device = config, data, device
        network = build(spec.scaled(config.channels))
        self.network: ImageNetwork = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.auxiliary = Auxiliary(self.network).to(device) if config.auxiliary else None
        trained = nn.ModuleList([self.network, *([self.auxiliary] if self.auxiliary else [])])
        optimizer_config = OptimizerConfig(
            config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.optimizer, self._trained = weight_optimizer(optimizer_config, trained), trained
        self.images = data.train if config.keep_validation else data.train.joined(data.valid)
        require_more(self.network, 1, (self.images,), data.image_size)
        self.history: list[Record] = []

    def run(self, on_epoch: Callable[[Record], None] = lambda _: None, folder: Path | None = None) -> None:
        """Trains to the last epoch; writes a checkpoint at the end of each into `folder`, where one is given.

        Raises ValueError where the loss stops being a number, and CheckpointError.
        """
        while len(self.history) < self.config.epochs:
            record = self._epoch(len(self.history))
            self.history.append(record)
            if folder is not None:
                checkpoint_folder.save_newest(folder, len(self.history), 0, self.state_dict(), keep=1)
            on_epoch(record)

    def _epoch(self, epoch: int) -> Record:
        config, started = self.config, time.perf_counter()
        self.network.set_drop_path(config.drop_path * epoch / max(1, config.epochs - 1))
        self._trained.train()
        steps = self.images.num_batches()
        loss_sum = torch.zeros((), device=self.device)
        correct, images = torch.zeros((), dtype=torch.int64, device=self.device), 0
        for step, (x, y) in enumerate(self.images.batches(epoch)):
            done = (epoch + step / steps) / config.epochs
            self.optimizer.param_groups[0]["lr"] = config.learning_rate * (1 + math.cos(math.pi * done)) / 2
            if config.cutout:
                x = cut_out(x, config.cutout, generator(config.seed, "cutout", epoch, step))
            loss, scores = self._loss(x, y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config.gradient_clip:
                nn.utils.clip_grad_norm_(self._trained.parameters(), config.gradient_clip)
            self.optimizer.step()
            loss_sum += loss.detach() * len(y)
            correct, images = correct + (scores.argmax(1) == y).sum(), images + len(y)
        seconds = time.perf_counter() - started
        mean_loss = float(loss_sum) / images
        if not math.isfinite(mean_loss):
            raise ValueError(
                f"the loss is {mean_loss} in epoch {epoch + 1}: lower learning_rate ({config.learning_rate})"
            )
        record: Record = {
            "epoch": epoch + 1,
            "train_loss": mean_loss,
            "train_accuracy": int(correct) / images,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": seconds,
            "images_per_second": images / seconds,
        }
        if config.keep_validation:
            batches = self.data.valid.batches(0, shuffle=False, augment=False)
            record["valid_accuracy"] = accuracy(self.network, batches)
        return record

    def _loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        second = None
        with computing(self.config.precision, x.device):
            scores = self.network(x)
            if self.auxiliary is not None and len(y) > 1:  # its last norm cannot take the statistics of one image
                second = self.auxiliary()
        scores = scores.float() if self.config.precision == "bf16" else scores
        loss = cross_entropy(scores, y, label_smoothing=self.config.label_smoothing)
        if second is not None:
            second_loss = cross_entropy(second.float(), y, label_smoothing=self.config.label_smoothing)
            loss = loss + self.config.auxiliary * second_loss
        return loss, scores

    def test_accuracy(self) -> float:
        """Of the network as it is: to be read once, at the end."""
        return accuracy(self.network, self.data.test.batches(0))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        return {
            "retrain": dataclasses.asdict(self.config),
            "digest": self.data.digest,
            "spec": self.network.spec.to_dict(),
            "trained": self._trained.state_dict(),
            "optimizer": named_state(self.optimizer, dict(self._trained.named_parameters())),
            "history": self.history,
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`. Raises CheckpointError where settings, architecture or data are others."""
        for name, here in (
            ("retrain", dataclasses.asdict(self.config)),
            ("digest", self.data.digest),
            ("spec", self.network.spec.to_dict()),
        ):
            if state.get(name) != here:
                what = {"retrain": "other settings", "digest": "other images", "spec": "another architecture"}[name]
                raise CheckpointError(f"it was begun with {what}: give another --out")
        self._trained.load_state_dict(state["trained"])
        load_named_state(self.optimizer, dict(self._trained.named_parameters()), state["optimizer"])
        self.history = list(state["history"])
        torch.set_rng_state(state["torch_rng"])
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
