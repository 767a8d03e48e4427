"""The launches of a function, as rehearsals found them (`asose_fast.ops.native.rehearsals`)."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.native import DTYPE_CODES, address, addresses, memory
from asose_fast.ops.native.launches import Kernel, maker


class Place(NamedTuple):
    """So many bytes from a base on."""

    base: int
    offset: int


FIXED, Y, GRAD, KEPT, ROOM = range(5)
"""The bases of places: none, the output and its gradient, what lives from forward to backward, and the workspace.
Inputs and, after them, their gradients follow."""
INPUTS = 5


class Block(NamedTuple):
    """Memory, and its address; it is there as long as what holds it."""

    held: Any
    address: int


NOTHING = Block(None, 0)


def holding(tensor: Tensor | None) -> Block:
    """The memory of a tensor."""
    return Block(tensor, address(tensor))


def block(size: int, poison: bool = False) -> Block:
    """So many bytes of the pool, which may be none; full of NaN if they are to be `poison`."""
    held, (start,) = memory.workspace(size)
    if poison and size:
        ctypes.memset(start, 255, size)
    return Block(held, start)


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
        """That of a dense output."""
        return torch.channels_last if len(self.shape) == 4 else torch.contiguous_format

    @property
    def bytes(self) -> int:
        """Those of a dense tensor."""
        return self.shape.numel() * self.dtype.itemsize

    def empty(self, poison: bool = False) -> Tensor:
        """An uninitialised tensor, or one full of NaN."""
        if len(self.shape) == 4 and self.stride[1] == 1:
            found = memory.empty(self.shape, _LIKE[self.dtype])
        else:
            found = torch.empty_strided(self.shape, self.stride, dtype=self.dtype)
        return found.fill_(torch.nan) if poison else found


_LIKE = {dtype: torch.empty(0, dtype=dtype) for dtype in DTYPE_CODES}


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
    """Of those inputs and parameters that want one."""
    wanted: list[int]
    """Their numbers: parameters follow inputs."""
    of_parameters: memory.Tensors
    """Makes the last of these gradients, those of parameters."""
    reads_y: bool
    """Whether backward reads the output."""
    held: list[object]
    """The launches read these."""
    read: list[Tensor]
    """Parameters whose values backward reads."""

    def run_forward(self, inputs: Sequence[int], y: int, poison: bool = False) -> Block:
        """Writes the output, from the addresses of the inputs, and gives what is kept for backward."""
        kept, room = block(self.kept, poison), block(self.rooms[0], poison)
        self.forward_program.run([0, y, 0, kept.address, room.address, *inputs])
        return kept

    def run_backward(
        self, grad: int, inputs: Sequence[int], y: int, kept: Block, gradients: Sequence[int], poison: bool = False
    ) -> None:
        """Writes the gradients that are wanted. Of the first input and the output, what is not read may be 0."""
        room = block(self.rooms[1], poison)
        self.backward_program.run([0, y, grad, kept.address, room.address, *inputs, *gradients])

    def forward(self, inputs: Sequence[Tensor], poison: bool = False) -> tuple[Tensor, Block]:
        """`run_forward`, and the output."""
        y = self.y.empty(poison)
        return y, self.run_forward(addresses(inputs), address(y), poison)

    def backward(
        self, grad: Tensor, inputs: Sequence[Tensor], y: Tensor, kept: Block, poison: bool = False
    ) -> list[Tensor]:
        """`run_backward`, and the gradients."""
        found = [kind.empty(poison) for kind in self.gradients]
        self.run_backward(address(grad), addresses(inputs), address(y), kept, addresses(found), poison)
        return found
