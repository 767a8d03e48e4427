"""What the training of a derived model does besides, where it has a teacher."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from asose_fast.engine.recipe.teacher import Distillation, Taught, Teacher
from asose_fast.engine.step.steps import StepResult
from asose_fast.library.objective import LibraryObjective
from asose_fast.training_config import RecipeConfig


@dataclasses.dataclass(frozen=True)
class TaughtRecipe:
    """Leaves batches as they are, and draws the loss to a teacher's probabilities."""

    own: LibraryObjective
    distillation: Distillation

    @classmethod
    def make(
        cls, config: RecipeConfig, own: LibraryObjective, teacher: nn.Module | None, device: torch.device
    ) -> TaughtRecipe | None:
        """Returns the recipe with a teacher, and None without one. Raises TypeError for what is no module."""
        if teacher is None:
            return None
        if not isinstance(teacher, nn.Module):
            raise TypeError(f"teacher must be a torch.nn.Module, got {type(teacher).__name__}")
        distillation = Distillation(Teacher(teacher, device), config.teacher_weight, config.teacher_temperature)
        return cls(own, distillation)

    def batch(self, x: Any, y: Any, epoch: int, step: int, rank: int = 0) -> tuple[Any, Taught]:
        """Returns the batch with what the teacher says of it."""
        return x, self.distillation.taught(x, y)

    def objective(self, outputs: Any, y: Taught) -> StepResult:
        """Returns what the search minimises and counts, with the loss drawn to the teacher's probabilities."""
        return self.distillation.drawn(self.own(outputs, y.targets), outputs, y)
