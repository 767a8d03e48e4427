"""When a checkpoint within an epoch is due."""

from __future__ import annotations

import time

from asose_fast.config import CheckpointConfig


class Cadence:
    """Counts steps and seconds since the last checkpoint: what a kill loses at most."""

    def __init__(self, config: CheckpointConfig) -> None:
        self.config = config
        self.restart()

    def restart(self) -> None:
        """A checkpoint was written."""
        self._steps, self._time = 0, time.monotonic()

    def due(self) -> bool:
        """Counts a step; True once the configured steps or seconds have passed."""
        self._steps += 1
        steps, seconds = self.config.checkpoint_steps, self.config.checkpoint_seconds
        return (steps is not None and self._steps >= steps) or (
            seconds is not None and time.monotonic() - self._time >= seconds
        )
