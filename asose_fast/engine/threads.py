"""How many threads a process computes with."""

from __future__ import annotations

import time

import torch

from asose_fast.engine.load import Load
from asose_fast.engine.observer import Observer
from asose_fast.engine.processes import ALONE, Processes, cores
from asose_fast.engine.state import SearchState

A_THREAD = 1 << 15
"""With fewer elements, threads wait for each other more than they work. With twice as many (digits) the steps of a
search take 0.86 times as long on two threads as on one (AVX-512)."""
FIRST_LOOK = 0.25
"""So many seconds the cores are watched before a run begins."""
BETWEEN_LOOKS = 2.0


def set_threads(threads: int | None, elements: int, processes: Processes = ALONE) -> list[Observer]:
    """Sets so many threads or, for None, those that a step gains from: the process's share of the cores, but one for
    every `A_THREAD` of the `elements` that the tensors of all processes have. A process that is alone leaves others the
    cores that they use, and the observer that is returned looks again while the run goes on (`FreeCores`).
    """
    gaining = max(1, elements // processes.count // A_THREAD)
    if threads is not None:
        torch.set_num_threads(threads)
    elif processes.count > 1:  # torchrun sets OMP_NUM_THREADS=1
        torch.set_num_threads(min(gaining, max(1, cores() // processes.local_count)))
    else:
        most = min(gaining, torch.get_num_threads())
        torch.set_num_threads(most)
        if most > 1:
            free = FreeCores(most)
            time.sleep(FIRST_LOOK)
            free.set()
            return [free]
    return []


class FreeCores(Observer):
    """Has a run compute with as many threads as other processes leave it cores, one at least.

    Threads meet at the end of every operator, and all wait for one that has no core: with four busy processes on two
    cores, a weight step on two threads takes many times as long as on one. The operators give the same bits whatever
    the number of threads (docs/kernels.md).
    """

    def __init__(self, most: int, load: Load | None = None) -> None:
        self._most, self._load = most, Load() if load is None else load
        self._looked = time.monotonic()

    def set(self) -> None:
        """Sets the number of threads by what others did since the last look. It stays where that is not known."""
        self._looked, others = time.monotonic(), self._load.others()
        if others is not None:
            torch.set_num_threads(min(self._most, max(1, round(cores() - others))))

    def on_step(self, state: SearchState) -> None:
        """Looks every few seconds."""
        if time.monotonic() - self._looked >= BETWEEN_LOOKS:
            self.set()
