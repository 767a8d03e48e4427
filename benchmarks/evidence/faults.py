"""Searches with faults of the original ASO-SE (tests/regressions), one a class, and with all that made it fail."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from asose_fast.search import Trainer
from asose_fast.search.optimizers import set_learning_rate
from asose_fast.search.phases import Phase
from asose_fast.search.steps import Ahead, weight_step
from asose_fast.space import Network


class NoGradient(Trainer):
    """The output of a sampled operation is returned as it is, not multiplied by its weight: alpha gets no gradient."""

    def _alpha_step(self, phase: Phase, x: Tensor, y: Tensor, ahead: Ahead) -> None:
        self.selector.sample(phase.name)
        self.selector.cool()
        self.progress.alpha_steps += 1


class DetachedBoost(Trainer):
    """The boosted logits are a copy: a layer that is boosted gets no gradient."""

    def _alpha_step(self, phase: Phase, x: Tensor, y: Tensor, ahead: Ahead) -> None:
        boost = self.selector.boost(phase.name)
        boosted = []
        if boost is not None:
            probabilities = self.selector.logits().detach().softmax(1).max(1)
            undecided = (probabilities.values < boost.below) & (probabilities.indices != boost.skip)
            boosted = [row for row, here in zip(self.selector.alpha, undecided.tolist(), strict=True) if here]
        for row in boosted:
            row.requires_grad_(False)
        if len(boosted) < len(self.selector.alpha):
            super()._alpha_step(phase, x, y, ahead)
        else:
            self.selector.sample(phase.name)
            self.selector.cool()
            self.progress.alpha_steps += 1
        for row in boosted:
            row.requires_grad_(True)


class OnTrainingImages(Trainer):
    """Alpha learns on the images that the weights learn on."""

    def _held_out_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch = self.progress.alpha_steps
        while True:
            yield from self.data.train.batches(epoch, augment=self.config.augment)
            epoch += 1


class StaleNorms(Trainer):
    """Paths are evaluated under whatever batch-norm statistics training has left behind."""

    def calibrate(self, network: nn.Module) -> None:
        """Leaves the statistics as they are."""


class OriginalTrainer(NoGradient, OnTrainingImages, StaleNorms):
    """All of these, to go with `configs/original.yaml`, whose `warmup: skip` is one more. Accuracy is that of a path
    sampled anew, and the last phase samples at the lowest temperature from the whole supernet."""

    def _enter(self, phase: Phase) -> None:
        if phase.name == "optimize":
            self.selector.temperature = self.config.temperature_floor
            self.progress.phase = phase.name
        super()._enter(phase)

    def _weight_step(self, phase: Phase, x: Tensor, y: Tensor) -> None:
        set_learning_rate(self.weights, self._learning_rate(phase))
        path = self.selector.path(phase.name)
        check = self._loss_check("loss", phase, x, path)
        result = weight_step(self.network, self.weights, x, y, path, clip=self.config.gradient_clip, check=check)
        self.weight_meter.add(result)

    def derived(self) -> Network:
        """A path of the present phase, sampled."""
        phase = "warmup" if self.progress.phase == "warmup" else "growth"
        return self.network.derive(self.selector.path(phase))
