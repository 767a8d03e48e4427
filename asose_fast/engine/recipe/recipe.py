"""What the training of a derived network does to its batches, and what it minimises."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from asose_fast.data import Data
from asose_fast.data.cutout import cut_out
from asose_fast.data.seeds import generator
from asose_fast.engine.recipe.auto_augment import AutoAugment
from asose_fast.engine.recipe.class_weights import weights_of
from asose_fast.engine.recipe.mixing import mixed
from asose_fast.engine.recipe.teacher import Distillation, Taught, distillation
from asose_fast.engine.step.steps import StepResult, classification
from asose_fast.training_config import RecipeConfig


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Changes batches and gives the loss, as the settings say; by default neither is other than without it."""

    config: RecipeConfig
    seed: int
    classes: int
    auto_augment: AutoAugment | None
    class_weights: Tensor | None
    """Float32 (classes,), on the device; None: every image counts the same."""
    distillation: Distillation | None
    """What a teacher adds to the loss; None: there is none."""

    @classmethod
    def make(
        cls, config: RecipeConfig, seed: int, data: Data, device: torch.device, teacher: nn.Module | None = None
    ) -> Recipe:
        """Returns the recipe for a training on `data.train`, on `device`. `teacher` as in `teacher.distillation`.

        Raises ValueError where torchvision is needed and missing, and as `teacher.distillation` does.
        """
        policy = config.auto_augment
        taught = distillation(config, data, device, teacher)
        augment = None if policy == "none" else AutoAugment.make(policy, data.mean, data.std)
        return cls(config, seed, len(data.classes), augment, weights_of(config, data, device), taught)

    @property
    def identity(self) -> dict[str, str]:
        """A checkpoint knows the teacher by this."""
        return {"teacher": self.distillation.teacher.digest} if self.distillation else {}

    def batch(self, x: Tensor, y: Tensor, epoch: int, step: int, rank: int = 0) -> tuple[Tensor, Tensor | Taught]:
        """Returns the batch as it is trained on: changed by the policy, cut out, and mixed, in this order.

        It is a function of the arguments, the seed and the settings, so that a training resumes to the bit. Images are
        mixed with others of the same process.

        Args:
            x: float (N, C, H, W), normalised.
            y: int64 (N,).
            epoch, step: of the training.
            rank: of the process, each of which draws numbers of its own.

        Returns:
            Images, and labels as they are or, in a mixed batch, float32 (N, classes); with what the teacher says of
            these images, where there is one.
        """

        def randomness(purpose: str) -> torch.Generator:
            return generator(self.seed, purpose, epoch, step, *([rank] if rank else []))

        config = self.config
        if not len(x):  # the part of a process that has more company than the batch has images
            return x, y
        if self.auto_augment is not None:
            x = self.auto_augment(x, randomness("auto_augment"))
        if config.cutout:
            x = cut_out(x, config.cutout, randomness("cutout"))
        if config.mixup or config.cutmix:
            draw = randomness("mix")
            if config.mix_share == 1 or float(torch.rand((), generator=draw)) < config.mix_share:
                x, y = mixed(x, y, self.classes, config.mixup, config.cutmix, draw)
        return x, self.distillation.taught(x, y) if self.distillation else y

    def objective(self, scores: Tensor, y: Tensor | Taught) -> StepResult:
        """Returns the cross-entropy for smoothed targets, by the weights of the classes, and the right predictions. Of
        mixed images a prediction is right that names the larger part. A teacher draws the loss to its probabilities."""
        targets = y.targets if isinstance(y, Taught) else y
        result = classification(scores, targets, self.config.label_smoothing, self.class_weights)
        return self.distillation.drawn(result, scores, y) if self.distillation and isinstance(y, Taught) else result
