"""Calls of compiled kernels, which can be looked at: what a piece of code launches, and on what memory."""

from __future__ import annotations

import bisect
import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, NamedTuple

from torch import Tensor

from asose_fast import _native

Kernel = Callable[..., Any]


class Memory(NamedTuple):
    """A stretch of memory that kernels were given."""

    size: int
    held: object
    """It is there as long as this."""


class Log:
    """What was launched, in order, and the memory that addresses were asked of. All of it stays."""

    def __init__(self) -> None:
        self.calls: list[tuple[Kernel, tuple[Any, ...]]] = []
        self.memory: dict[int, Memory] = {}
        """By where it begins, in the order in which it was first seen."""

    def note(self, tensor: Tensor) -> None:
        """Notes the storage of a tensor."""
        storage = tensor.untyped_storage()
        self.memory.setdefault(storage.data_ptr(), Memory(storage.nbytes(), tensor))

    def stretch(self, tensor: Tensor) -> int | None:
        """The number of the stretch that is the storage of a tensor, if there is one."""
        start = tensor.untyped_storage().data_ptr()
        return list(self.memory).index(start) if start in self.memory else None

    def finder(self) -> Callable[[int], tuple[int, int] | None]:
        """Gives a function that says, of an address, into which stretch it points, and how many bytes."""
        numbers = {start: number for number, start in enumerate(self.memory)}
        starts = sorted(start for start, memory in self.memory.items() if memory.size)

        def find(address: int) -> tuple[int, int] | None:
            place = bisect.bisect_right(starts, address) - 1
            if place < 0 or address >= starts[place] + self.memory[starts[place]].size:
                return None
            return numbers[starts[place]], address - starts[place]

        return find


class _Watching(threading.local):
    log: Log | None = None


_watching = _Watching()


@contextlib.contextmanager
def noting() -> Iterator[Log]:
    """Notes what this thread launches in the block."""
    before, log = _watching.log, Log()
    _watching.log = log
    try:
        yield log
    finally:
        _watching.log = before


def log() -> Log | None:
    """That of the innermost block of `noting`, if this thread is in one."""
    return _watching.log


def launch(kernel: Kernel, *arguments: Any) -> Any:
    """kernel(*arguments), noted where it is a launch: one that gives something back is a question."""
    found = kernel(*arguments)
    if found is None and (noted := _watching.log) is not None:
        noted.calls.append((kernel, arguments))
    return found


def maker(kernel: Kernel) -> Callable[..., Any]:
    """What makes native launches of a kernel of the CPU, from places and arguments (csrc/bindings/launch.h)."""
    owner = kernel.__self__ if isinstance(kernel, MethodType) else _native.kernels("cpu")
    made: Callable[..., Any] = getattr(owner, f"{kernel.__name__}_launch")
    return made


class Noted:
    """A module of kernels whose launches are noted."""

    def __init__(self, kernels: Any) -> None:
        self._kernels = kernels

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return functools.partial(launch, getattr(self._kernels, name))
