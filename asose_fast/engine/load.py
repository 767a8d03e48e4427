"""What other processes do on the cores of this one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

from asose_fast.engine.processes import cores

IDLE = (3, 4)
"""The places of the times that a core was idle, or waited for a disk, among those of a line of /proc/stat."""
TIMES = 8
"""So many times of a line are of the core itself; those after them are parts of others."""


class Load:
    """How busy others keep the cores that this process may use, from one look to the next (Linux's /proc/stat)."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._before = self._look()

    def others(self) -> float | None:
        """The cores that others kept busy since the last look, in the mean: 1.5, say. None where it cannot be known.

        Processes that this one has started count as others: they need their cores too.
        """
        before, self._before = self._before, self._look()
        if before is None or self._before is None or self._before.clock == before.clock:
            return None
        passed, busy, own = (now - then for now, then in zip(self._before, before, strict=True))
        return min(max(0.0, (busy - own) / passed), float(cores()))

    def _look(self) -> _Look | None:
        mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        try:
            lines = [line.split() for line in self._stat.read_text().splitlines() if line.startswith("cpu")]
            ticks = [
                sum(int(time) for place, time in enumerate(times[:TIMES]) if place not in IDLE)
                for name, *times in lines
                if name[3:].isdigit() and int(name[3:]) in mine
            ]
        except (OSError, ValueError):
            return None
        return _Look(time.monotonic(), sum(ticks) / os.sysconf("SC_CLK_TCK"), time.process_time()) if ticks else None


class _Look(NamedTuple):
    """In seconds: by the clock, of the cores where they were busy, and of this process."""

    clock: float
    busy: float
    own: float
