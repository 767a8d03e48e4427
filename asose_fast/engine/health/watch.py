"""Whether the numbers of a search are still numbers, known a little later and without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asose_fast.engine.host_copy import HostCopy


class Watch:
    """Looks at running sums every so many steps: each time at the values of the time before, which have arrived."""

    def __init__(self, every: int = 50) -> None:
        self.every = every
        self._steps = 0
        self._copy: HostCopy | None = None

    def finite(self, scalars: Callable[[], Sequence[Tensor]]) -> bool:
        """Counts a step. False where a scalar was not finite when it was looked at last."""
        self._steps += 1
        if self._steps % self.every:
            return True
        seen, self._copy = self._copy, HostCopy(torch.stack([value.detach().double() for value in scalars()]))
        return seen is None or all(map(math.isfinite, seen.tolist()))
