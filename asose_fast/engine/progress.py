"""The progress of a run says where it stands."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


@dataclasses.dataclass
class Progress:
    """A run stands here in its epochs and steps."""

    epoch: int = 0
    """So many epochs are completed."""
    step: int = 0
    """So many steps of the present epoch are done."""
    since_alpha: int = 0
    """So many weight steps were done since the last alpha step."""
    alpha_steps: int = 0
    """So many alpha steps were done in all: this is also the position in the validation batches."""
    phase: str = ""
    """This phase was entered last."""
    best_accuracy: float = -math.inf
    """This is the best validation accuracy, of the supernet's derived paths or, in optimize, of the derived network;
    epochs that the guard has turned back do not count."""
    epoch_seconds: float = 0.0
    """The steps of the present epoch have taken so long."""

    def epochs_done(self, batches: int) -> float:
        """Returns how many epochs of so many batches are done, fractions included."""
        return self.epoch + self.step / batches

    def timed(self, read: Callable[[], T]) -> T:
        """Returns what `read` gives. It waits for the steps that a GPU has still to do, and so its time is theirs."""
        began = time.perf_counter()
        found = read()
        self.epoch_seconds += time.perf_counter() - began
        return found
