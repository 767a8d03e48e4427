"""Searches with faults of the original ASO-SE (tests/regressions), one a function, and with all that made it fail.

Each fault is a part of a search that does wrong: an estimator, a split of the data, or a state. The loop is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from asose_fast.config import Config
from asose_fast.data import Data
from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.alpha.estimators.single_path import Gdas
from asose_fast.engine.alpha.estimators.straight_through import StraightThrough
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.phases import Phase, PhaseName, PhaseSpec, plan
from asose_fast.engine.state import SearchState
from asose_fast.engine.step.optimizers import learning_rate
from asose_fast.engine.task import ImageTask
from asose_fast.space.supernet import Supernet

CPU = torch.device("cpu")
Search = Callable[[Config, Data], SearchState]
"""Begins a search."""


class NoGradient(Gdas):
    """The output of a sampled operation is returned as it is, not multiplied by its weight: alpha gets no gradient."""

    def begin(self, selector: Selector, phase: PhaseName) -> Draw:
        self._alpha = list(selector.alpha)
        return super().begin(selector, phase)

    def finish(self, draw: Draw) -> None:
        """Takes the gradient away, so that Adam leaves alpha as it is."""
        for row in self._alpha:
            row.grad = None


class DetachedBoost(StraightThrough):
    """The boosted logits are a copy: a layer that is boosted gets no gradient."""

    def begin(self, selector: Selector, phase: PhaseName) -> Draw:
        self._boosted: list[Tensor] = []
        boost = selector.boost(phase)
        if boost is not None:
            probabilities = selector.logits().detach().softmax(1).max(1)
            undecided = (probabilities.values < boost.below) & (probabilities.indices != boost.skip)
            self._boosted = [row for row, here in zip(selector.alpha, undecided.tolist(), strict=True) if here]
        return super().begin(selector, phase)

    def finish(self, draw: Draw) -> None:
        """Takes the gradient of boosted layers away."""
        for row in self._boosted:
            row.grad = None


class TrainingImages:
    """A validation split whose shuffled batches, those of alpha, are the images that the weights learn on."""

    def __init__(self, data: Data) -> None:
        self.train, self.valid = data.train, data.valid

    def __getattr__(self, name: str) -> Any:
        return getattr(self.valid, name)

    def __len__(self) -> int:
        return len(self.valid)

    def num_batches(self) -> int:
        return self.train.num_batches()

    def batches(self, epoch: int, *, shuffle: bool = False, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.train if shuffle else self.valid).batches(epoch, shuffle=shuffle, **options)


class StaleNorms(SearchState):
    """Paths are evaluated under whatever batch-norm statistics training has left behind."""

    def calibrate(self, network: Supernet) -> None:
        """Leaves the statistics as they are."""


class OriginalState(StaleNorms):
    """Accuracy is that of a path sampled anew."""

    def derived(self) -> Supernet:
        """A path of the present phase, sampled."""
        phase: PhaseName = "warmup" if self.progress.phase == "warmup" else "growth"
        return self.network.derive(self.selector.path(phase))

    def learning_rate(self, phase: Phase) -> float:
        """As in a search whose last phase trains a derived network."""
        standard = plan(self.config)
        done = self.progress.epoch + self.progress.step / self.data.train.num_batches()
        return learning_rate(self.config, standard, next(p for p in standard if p.name == phase.name), done)


def sound(config: Config, data: Data) -> SearchState:
    """A search without a fault."""
    return SearchState(ImageTask(config, data, CPU))


def no_gradient(config: Config, data: Data) -> SearchState:
    """See NoGradient."""
    return SearchState(ImageTask(config, data, CPU), estimator=NoGradient(config))


def detached_boost(config: Config, data: Data) -> SearchState:
    """See DetachedBoost."""
    return SearchState(ImageTask(config, data, CPU), estimator=DetachedBoost(config))


def on_training_images(config: Config, data: Data) -> SearchState:
    """See TrainingImages."""
    return SearchState(ImageTask(config, _with_training_images(data), CPU))


def stale_norms(config: Config, data: Data) -> SearchState:
    """See StaleNorms."""
    return StaleNorms(ImageTask(config, data, CPU))


def original(config: Config, data: Data) -> SearchState:
    """All of these but the boost, to go with `configs/original.yaml`, whose `warmup: skip` is one more; and the last
    phase samples at the lowest temperature from the whole supernet."""
    task = ImageTask(config, _with_training_images(data), CPU)
    *searching, last = task.phases
    sampled = PhaseSpec(last.name, last.epochs, updates="weights", temperature=config.temperature_floor)
    task.phases = (*searching, dataclasses.replace(last, spec=sampled))
    return OriginalState(task, estimator=NoGradient(config))


def _with_training_images(data: Data) -> Data:
    return dataclasses.replace(data, valid=TrainingImages(data))
