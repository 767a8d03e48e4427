"""The progress of a run says where it stands."""

from __future__ import annotations

import dataclasses
import math


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
