"""Calls of kernels in a row, which are made once: what each is given lies so many bytes into one of a few tensors."""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.native import DTYPE_CODES, address, memory


class Place(NamedTuple):
    """So many bytes from a base on; from base 0 it is an address, or any number."""

    base: int
    offset: int


NOTHING = Place(0, 0)
X, KEPT, ROOM, Y = (Place(base, 0) for base in range(1, 5))
"""The input, what is kept for backward, the workspace, and the output or its gradient."""
GRADIENTS = 5
"""The base of the gradient of the input; those of the parameters follow."""


class Places(tuple[Place, ...]):
    """An argument of a kernel: a list of numbers some of which are places."""

    __slots__ = ()

    def at(self, bases: Sequence[int]) -> list[int]:
        """The numbers, from the addresses of the bases."""
        return [bases[base] + offset for base, offset in self]


Launch = tuple[Callable[..., None], Sequence[Any]]
"""A kernel and its arguments."""


class Plan(Protocol):
    """What the calls of a shape have in common, on some threads."""

    @property
    def kernels(self) -> Any:
        """They have `forward` and `backward`."""

    @property
    def forward_bytes(self) -> int:
        """Of the workspace; those of `backward_bytes` are for a backward pass."""

    @property
    def backward_bytes(self) -> int: ...


class Bound(abc.ABC):
    """A call of an operator but for x and the shortcut, which are dense."""

    plan: Callable[[int], Plan]
    """Gives that of its shape, for a number of threads."""
    inputs: int
    """1 for x, and 1 for a shortcut."""
    y: tuple[int, ...]
    """The shape of the output."""
    saved: Sequence[tuple[Sequence[int], torch.dtype]]
    """Shapes and dtypes of what forward gives besides, for backward."""

    @abc.abstractmethod
    def forward(self, values: Sequence[Place], y: Place, saved: Sequence[Place], threads: int) -> Launch:
        """The launch, from the places of x and the shortcut, or of x alone."""

    @abc.abstractmethod
    def backward(
        self, grad: Place, values: Sequence[Place], saved: Sequence[Place], to: Sequence[Place], threads: int
    ) -> Launch:
        """The launch; `to` are the places for the gradients of all arguments of the Function, or `NOTHING`."""

    def live(self) -> bool:
        """Whether the launches serve the call with the values that its parameters have now."""
        return True


class Call(Protocol):
    """Of `asose_fast.ops.tape.Call`, what scripts read."""

    @property
    def values(self) -> tuple[tuple[int, int], ...]: ...

    @property
    def parameters(self) -> tuple[tuple[int, int], ...]: ...

    @property
    def kernels(self) -> Bound | None: ...

    def needs(self, of_values: Sequence[bool], of_parameters: Sequence[bool]) -> tuple[bool, ...]: ...


class _Forward(NamedTuple):
    launches: list[Launch]
    room: int
    """Bytes of the workspace."""


class _Backward(NamedTuple):
    launches: list[Launch]
    room: int
    of_x: bool
    """Whether there is a gradient of x, and of every parameter."""
    of_parameters: tuple[bool, ...]


class Script:
    """What the calls of a recording launch, forward and backward; the last one makes its output.

    All values but the output, and all that the calls save, lie in one tensor.
    """

    def __init__(self, calls: Sequence[Call], x: Tensor) -> None:
        self._calls, self._dtype = calls, x.dtype
        bounds = self._bounds = [call.kernels for call in calls if call.kernels is not None]
        *shapes, self.y = [bound.y for bound in bounds]
        end = 0

        def kept(shape: Sequence[int], dtype: torch.dtype) -> Place:
            nonlocal end
            start, end = end, end + _lines(math.prod(shape) * dtype.itemsize)
            return Place(KEPT.base, start)

        self._values = [X, *[kept(shape, x.dtype) for shape in shapes]]
        self._shapes = [x.shape, *shapes]
        self._saved = [[kept(*one) for one in bound.saved] for bound in bounds]
        self._kept = 1, 1, 1, end // x.itemsize
        self._forward: dict[int, _Forward] = {}
        self._backward: dict[tuple[bool, tuple[bool, ...], int], _Backward] = {}

    @staticmethod
    def of(calls: Sequence[Call], output: int, x: Tensor) -> Script | None:
        """The script of a recording, where all of its calls are bound and one follows from another."""
        parameters = [number for call in calls for _, number in call.parameters]
        plain = output == len(calls) > 0 and len(set(parameters)) == len(parameters)
        bound = all(call.kernels is not None and call.kernels.inputs == len(call.values) for call in calls)
        return Script(calls, x) if plain and bound else None

    def live(self) -> bool:
        """Whether it serves the calls with the values that parameters have now."""
        return all([bound.live() for bound in self._bounds])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and what is kept."""
        y = memory.empty(self.y, x) if len(self.y) == 4 else x.new_empty(self.y)
        kept = memory.empty(self._kept, x)
        threads = torch.get_num_threads()
        if (made := self._forward.get(threads)) is None:
            made = self._forward[threads] = self._launches_forward(threads)
        launches, size = made
        held, (room,) = memory.workspace(size)
        _run(launches, (0, address(x), kept.data_ptr(), room, y.data_ptr()))
        del held
        return y, kept

    def backward(
        self, grad: Tensor, x: Tensor, kept: Tensor, parameters: Sequence[Tensor], need_x: bool, needs: tuple[bool, ...]
    ) -> list[Tensor | None]:
        """The gradients of x and of the parameters, as far as they are needed."""
        key = need_x, needs, torch.get_num_threads()
        if (made := self._backward.get(key)) is None:
            made = self._backward[key] = self._launches_backward(*key)
        launches, size, of_x, of_parameters = made
        grad_x = memory.empty(x.shape, x) if of_x else None
        found = [torch.empty_like(t) if of else None for t, of in zip(parameters, of_parameters, strict=True)]
        held, (room,) = memory.workspace(size)
        bases = [0, *map(address, (x, kept)), room, *map(address, (grad, grad_x, *found))]
        _run(launches, bases)
        del held
        return [grad_x, *found]

    def kept_tensors(self, x: Tensor, kept: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """All values but the output, and what each call saved."""
        flat = kept.view(-1)

        def tensor(place: Place, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
            if place == X:
                return x
            start, count = place.offset // flat.itemsize, math.prod(shape) * dtype.itemsize // flat.itemsize
            found = flat[start : start + count].view(dtype)
            if len(shape) != 4:
                return found.view(*shape)
            n, c, h, w = shape
            return found.view(n, h, w, c).permute(0, 3, 1, 2)

        values = [tensor(*one, x.dtype) for one in zip(self._values, self._shapes, strict=True)]
        saved = [
            [tensor(place, *one) for place, one in zip(of_call, bound.saved, strict=True)]
            for bound, of_call in zip(self._bounds, self._saved, strict=True)
        ]
        return values, saved

    def _given(self, call: Call) -> list[Place]:
        return [self._values[number] for _, number in call.values]

    def _launches_forward(self, threads: int) -> _Forward:
        launches = [
            bound.forward(self._given(call), y, saved, threads)
            for call, bound, saved, y in zip(
                self._calls, self._bounds, self._saved, [*self._values[1:], Y], strict=True
            )
        ]
        return _Forward(launches, max(bound.plan(threads).forward_bytes for bound in self._bounds))

    def _launches_backward(self, need_x: bool, needs: tuple[bool, ...], threads: int) -> _Backward:
        needed = [need_x]
        for call in self._calls:
            needed.append(True in call.needs(needed, needs))
        end = _lines(max(bound.plan(threads).backward_bytes for bound in self._bounds))

        def room(number: int) -> Place:
            nonlocal end
            start, end = end, end + _lines(math.prod(self._shapes[number]) * self._dtype.itemsize)
            return Place(ROOM.base, start)

        gradients, launches = {len(self._calls): Y}, list[Launch]()
        parameters = [False] * len(needs)
        for number in range(len(self._calls), 0, -1):
            call, bound = self._calls[number - 1], self._bounds[number - 1]
            wanted = call.needs(needed, needs)
            if number not in gradients or True not in wanted:
                continue
            to, sums = [NOTHING] * len(wanted), list[Launch]()
            for place, value in call.values:
                if not wanted[place]:
                    continue
                if value in gradients:
                    to[place] = room(value)
                    sums.append(self._sum(value, gradients[value], to[place], threads))
                else:
                    to[place] = gradients[value] = room(value) if value else Place(GRADIENTS, 0)
            for place, parameter in call.parameters:
                if wanted[place]:
                    to[place], parameters[parameter] = Place(GRADIENTS + 1 + parameter, 0), True
            saved = self._saved[number - 1]
            launches += [bound.backward(gradients[number], self._given(call), saved, to, threads), *sums]
        return _Backward(launches, end, 0 in gradients, tuple(parameters))

    def _sum(self, value: int, to: Place, more: Place, threads: int) -> Launch:
        """Adds a gradient of the value to another."""
        add = functools.partial(_add, DTYPE_CODES[self._dtype], math.prod(self._shapes[value]), threads)
        return add, (Places((more, to)),)


def _add(dtype: int, count: int, threads: int, operands: list[int]) -> None:
    _native.kernels("cpu").add_scaled(dtype, count, dtype, 0, *operands, threads)


def _run(launches: Sequence[Launch], bases: Sequence[int]) -> None:
    for kernel, arguments in launches:
        kernel(*[argument.at(bases) if type(argument) is Places else argument for argument in arguments])


def _lines(size: int) -> int:
    return -(-size // memory.LINE) * memory.LINE
