"""The launches of a function, as rehearsals found them (`asose_fast.ops.native.rehearsals`)."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.native import memory
from asose_fast.ops.native.launches import Kernel, maker
from asose_fast.ops.native.script import Place

FIXED, Y, GRAD, KEPT, ROOM = range(5)
"""The bases of places: none, the output and its gradient, what lives from forward to backward, and the workspace.
Inputs and, after them, their gradients follow."""
INPUTS = 5


class Kind(NamedTuple):
    """What a tensor is like."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def of(tensor: Tensor) -> Kind:
        return Kind(tensor.shape, tensor.stride(), tensor.dtype)

    @property
    def format(self) -> torch.memory_format:
        """That of a dense tensor."""
        return torch.channels_last if len(self.shape) == 4 else torch.contiguous_format

    def empty(self, like: Tensor) -> Tensor:
        """An uninitialised tensor."""
        if len(self.shape) == 4 and self.dtype == like.dtype:
            return memory.empty(self.shape, like)
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype)


class Launch(NamedTuple):
    kernel: Kernel
    arguments: tuple[Any, ...]
    places: tuple[tuple[int, Place], ...]
    """Arguments, by their numbers, that are places."""
    lists: tuple[tuple[int, list[Place]], ...]
    """Those that are lists of numbers, of which some are."""

    def native(self) -> Any:
        """The launch for programs."""
        places = [(number, -1, *place) for number, place in self.places]
        for number, elements in self.lists:
            places += [(number, i, *place) for i, place in enumerate(elements) if place.base != FIXED]
        return maker(self.kernel)(places, *self.arguments)

    @property
    def all_places(self) -> list[Place]:
        """Those of all arguments."""
        return [*[place for _, place in self.places], *itertools.chain(*[places for _, places in self.lists])]

    def moved(self, to: Callable[[Place], Place]) -> Launch:
        """The launch with other places."""
        return self._replace(
            places=tuple([(number, to(place)) for number, place in self.places]),
            lists=tuple([(number, list(map(to, places))) for number, places in self.lists]),
        )


def program(launches: Sequence[Launch], bases: int) -> Any:
    """The launches in a row, to be run in one call on the addresses of so many bases (csrc/bindings/launch.h)."""
    return _native.kernels("cpu").Program([launch.native() for launch in launches], bases)


class Rehearsed(NamedTuple):
    """The launches of a function of several tensors, forward and backward."""

    forward_program: Any
    backward_program: Any
    kept: int
    """Bytes that live from forward to backward."""
    rooms: tuple[int, int]
    """Bytes of the workspaces of both."""
    y: Kind
    gradients: list[Kind]
    """Of those inputs that want one."""
    wanted: list[int]
    """Their numbers."""
    reads_y: bool
    """Whether backward reads the output."""
    held: list[object]
    """The launches read these."""
    read: list[Tensor]
    """Parameters whose values backward reads."""

    def forward(self, inputs: Sequence[Tensor], poison: bool = False) -> tuple[Tensor, Tensor | None]:
        """The output, and what is kept."""
        y = self.y.empty(inputs[0])
        kept = memory.empty((1, 1, 1, -(-self.kept // inputs[0].itemsize)), inputs[0]) if self.kept else None
        for tensor in (y, kept) if poison else ():
            if tensor is not None:
                tensor.fill_(torch.nan)
        self._run(self.forward_program, self.rooms[0], inputs, (y, None, kept), [], poison)
        return y, kept

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], y: Tensor | None, kept: Tensor | None, poison: bool = False
    ) -> list[Tensor]:
        """The gradients of those inputs that want one."""
        found = [kind.empty(inputs[0]) for kind in self.gradients]
        for tensor in found if poison else ():
            tensor.fill_(torch.nan)
        self._run(self.backward_program, self.rooms[1], inputs, (y, grad, kept), found, poison)
        return found

    def _run(
        self,
        program: Any,
        size: int,
        inputs: Sequence[Tensor],
        own: Sequence[Tensor | None],
        gradients: Sequence[Tensor],
        poison: bool,
    ) -> None:
        held, (start,) = memory.workspace(size)
        if poison and size:
            ctypes.memset(start, 255, size)
        y, grad, kept = (0 if t is None else t.data_ptr() for t in own)
        program.run([0, y, grad, kept, start, *map(Tensor.data_ptr, inputs), *map(Tensor.data_ptr, gradients)])
        del held
