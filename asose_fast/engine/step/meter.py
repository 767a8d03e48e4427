"""Running sums of an epoch, kept on the device until someone reads them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asose_fast.engine.step.steps import StepResult


class Meter:
    """Sums loss, right predictions, images and size errors over steps."""

    def __init__(
        self, device: torch.device, dtype: torch.dtype = torch.int64, losses: torch.dtype = torch.float64
    ) -> None:
        """`dtype` is that of the sum of what is counted, `losses` that of the sum of the losses."""
        self.device, self.dtype, self.losses = device, dtype, losses
        self.reset()

    def reset(self) -> None:
        """Starts a new epoch."""
        self._loss = torch.zeros((), dtype=self.losses, device=self.device)
        self._correct = torch.zeros((), dtype=self.dtype, device=self.device)
        self.images = 0
        self.size_errors = 0

    def add(self, result: StepResult) -> None:
        """Adds a step, without reading anything back."""
        self._loss += result.loss * result.images
        self._correct += result.correct
        self.images += result.images
        self.size_errors += result.size_error

    def read(self) -> tuple[float, float]:
        """Mean loss and accuracy (0 to 1) so far; NaN before the first step. Waits for the device."""
        if not self.images:
            return float("nan"), float("nan")
        loss, correct = torch.stack([self._loss.double(), self._correct.double()]).tolist()  # one wait for both
        return loss / self.images, correct / self.images

    @property
    def loss_sum(self) -> Tensor:
        """Sum of the losses (scalar), on the device."""
        return self._loss

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        return {
            "loss": self._loss,
            "correct": self._correct,
            "images": self.images,
            "size_errors": self.size_errors,
        }

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """The inverse of `state_dict`."""
        self.reset()
        self._loss += state["loss"]
        self._correct += state["correct"]
        self.images, self.size_errors = int(state["images"]), int(state["size_errors"])
