"""How much memory: what a graph keeps for backward, and the peak of a step."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor


class _Kept:
    """A tensor that a graph keeps for its backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(forward: Callable[[], Tensor]) -> int:
    """What the graph of a result keeps for the backward pass: bytes of all distinct storages."""
    kept: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        holder = _Kept(tensor)
        kept.add(holder)
        return holder

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor):
        result = forward()
    storages = {storage.data_ptr(): storage.nbytes() for storage in (h.tensor.untyped_storage() for h in kept)}
    del result  # alive until here: with it goes the graph
    return sum(storages.values())


def peak_bytes(run: Callable[[], object]) -> int:
    """The largest total of what torch allocates during a call: tensors, and the scratch memory of all kernels.

    Without the pool of `asose_fast.ops.native.memory`, of which torch knows nothing, and which keeps what was freed.

    What was allocated before does not count, not even where it is freed. A process should measure one call alone: what
    one allocates and later code frees, torch still has in its books at the next.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in events))


class Peak(NamedTuple):
    """The most memory that a step takes at a time, beyond what was taken before it, in bytes."""

    tensors: int
    """As torch counts them: `peak_bytes`."""
    resident: int
    """As the system counts them: pages of the process, whoever allocated them."""


def peak_in_fresh_process(prepare: Callable[..., Callable[[], object]], *arguments: object, pool: bool) -> Peak:
    """The peak of the step that `prepare(*arguments)`, a function of a module, returns.

    `pool`: outputs of our kernels come from their pool, as is usual; then `tensors` lacks them.
    """
    environment = {
        "ASOSE_POOL": str(int(pool)),
        # Freed memory goes back to the system at once, so that resident pages are those in use.
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    with (
        mock.patch.dict(os.environ, environment),
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process,
    ):
        return process.submit(_peak, torch.get_num_threads(), prepare, *arguments).result()


def _peak(threads: int, prepare: Callable[..., Callable[[], object]], *arguments: object) -> Peak:
    torch.set_num_threads(threads)
    step = prepare(*arguments)
    before = _status("VmRSS")
    for _ in range(2):
        step()
    resident = _status("VmHWM") - before  # getrusage's ru_maxrss would be inherited from the parent process
    return Peak(peak_bytes(prepare(*arguments)), resident)


def _status(field: str) -> int:
    """A size in /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])
