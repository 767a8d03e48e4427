# mypy: disable-error-code="import-untyped, untyped-decorator"
"""The last program of a launch reduces what all of them have written, which takes no launch of its own.

Every program writes its part and counts itself; the one that finds all others counted reads the parts. That is
"threadFenceReduction" of the CUDA samples, and B.5, "Memory Fence Functions", of the CUDA C++ programming guide. In the
terms of PTX's memory model, the barrier orders the stores of a program's threads before the atomic operation of one of
them, which releases them to the GPU, and acquires those of all programs that were counted before. So the last program
sees all parts, whichever it is. Parts are added up by their numbers, not as they came, so that results do not depend
on it.

Parts of T tasks are reduced in two levels: the last program of each group of about sqrt(T) tasks reduces the group, and
the last group's reduces the groups. So with more tasks the time of the last program grows as sqrt(T), and that of the
rest of the launch as T. A kernel has one where it is faster than a kernel of its own, some 5 us: where it reads at most
200 KB, which one program does in 2 us, and so for parts of few rows of channels. docs/gpu.md has the estimates.
"""

from __future__ import annotations

import threading

import torch
import triton
import triton.language as tl
from torch import Tensor

_COUNTERS = 1 << 14
"""That are allocated at a time."""


@triton.jit
def arrives_last(counter: tl.tensor, programs: tl.tensor) -> tl.tensor:
    """Counts a program, whose stores come before; whether all are counted. Then the counter is 0, as for a launch."""
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == programs - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def group_of(task: tl.tensor, tasks: tl.tensor, size: tl.tensor) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The group of a task, of how many; its first task, and how many it has."""
    group = task // size
    return group, tl.cdiv(tasks, size), group * size, tl.minimum(tasks - group * size, size)


def group_size(tasks: int) -> int:
    """The tasks of a group."""
    size: int = triton.next_power_of_2(max(round(tasks**0.5), 1))
    return size


class _Zeros:
    """Counters that are 0 between launches.

    Kernels of one stream run one after the other, so they share theirs. A CUDA graph may be replayed on any stream:
    what is captured gets counters of its own, which no other launch ever has.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of_stream: dict[tuple[torch.device, int], Tensor] = {}
        self._for_graphs: dict[torch.device, Tensor] = {}
        self._blocks = list[Tensor]()  # all that graphs took from: they hold addresses, which keep nothing alive

    def get(self, device: torch.device, count: int) -> Tensor:
        count = -(-count // 4) * 4  # whole 16 bytes: Triton compiles a kernel anew for pointers of another alignment
        with self._lock:
            if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                return self._captured(device, count)
            stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
            found = self._of_stream.get((device, stream))
            if found is None or len(found) < count:
                found = self._of_stream[device, stream] = _zeros(device, max(count, _COUNTERS))
            if device.type == "cuda" and len(self._for_graphs.get(device, ())) < _COUNTERS // 2:
                self._for_graphs[device] = _zeros(device, _COUNTERS)
                self._blocks.append(self._for_graphs[device])
            return found

    def _captured(self, device: torch.device, count: int) -> Tensor:
        left = self._for_graphs.get(device)
        if left is None or len(left) < count:
            return _zeros(device, count)  # a node of the graph: every replay fills them anew
        found, self._for_graphs[device] = left[:count], left[count:]
        return found


def _zeros(device: torch.device, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int32, device=device)


counters = _Zeros().get
"""counters(device, count): so many int32 zeros, which a kernel that is launched next on the current stream counts with
and leaves as 0."""
