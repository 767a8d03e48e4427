"""Calls of autograd Functions on a tape.

Whoever finds out what to call spends more time on that than many a kernel takes. What was found is the same in the next
step: a `Recording` has it, for `asose_fast.ops.played`. Whether it still holds is for its keeper to know
(`asose_fast.space.replay`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast.ops.native.script import Bound, Script


class Playable(torch.autograd.Function):
    """An autograd Function of one output that can be played."""

    @staticmethod
    def plain(ctx: Any) -> tuple[Callable[..., Tensor], Sequence[Any]]:
        """From the ctx of a backward pass, the function in plain PyTorch and its arguments (`autograd.gradients`)."""
        raise NotImplementedError

    @staticmethod
    def bind(*_: Any) -> Bound | None:
        """From the arguments, the call with its parameters as part of a script; None where it cannot be one."""
        return None

    @staticmethod
    def keep(ctx: Any, arguments: Sequence[Any], *saved: Tensor) -> None:
        """Does with ctx what forward does, from the arguments and what a script saved. It is for those that `bind`."""
        raise NotImplementedError


class Call(NamedTuple):
    """A call of a Function."""

    function: type[Playable]
    arguments: tuple[Any, ...]
    """None in the places of values."""
    values: tuple[tuple[int, int], ...]
    """Places among the arguments, and the numbers of the values there: 0 is the input of the recording, and the outputs
    of its calls follow."""
    parameters: tuple[tuple[int, int], ...]
    """Other places, and the numbers of the recording's parameters there."""
    kernels: Bound | None
    """What `bind` of the function gave, for scripts."""

    def given(self, values: Sequence[Tensor], parameters: Sequence[Tensor] | None = None) -> list[Any]:
        """The arguments with these values and, in place of those recorded, these parameters."""
        given = list(self.arguments)
        for place, number in self.values:
            given[place] = values[number]
        if parameters is not None:
            for place, number in self.parameters:
                given[place] = parameters[number]
        return given

    def needs(self, of_values: Sequence[bool], of_parameters: Sequence[bool]) -> tuple[bool, ...]:
        """Which gradients of the arguments are wanted."""
        needs = [False] * len(self.arguments)
        for place, number in self.values:
            needs[place] = of_values[number]
        for place, number in self.parameters:
            needs[place] = of_parameters[number]
        return tuple(needs)


class Recording(NamedTuple):
    """Calls that make a tensor of another."""

    calls: tuple[Call, ...]
    output: int
    """The number of the value that is the output."""
    parameters: tuple[Tensor, ...]
    """Each once."""
    script: Script | None
    """What the calls launch, where kernels are bound to all of them."""
    whereabouts: list[Any]
    """Of the parameters."""


Noted = tuple[type[Playable], tuple[Any, ...], Tensor]
"""A call of a Function, its arguments and its output."""


class _Tape(threading.local):
    """The calls of a thread that records."""

    calls: list[Noted] | None = None


_tape = _Tape()


def apply(function: type[Playable], *arguments: Any) -> Tensor:
    """`function.apply(*arguments)`, which is noted where the thread records."""
    y: Tensor = function.apply(*arguments)
    if _tape.calls is not None:
        _tape.calls.append((function, arguments, y))
    return y


@contextlib.contextmanager
def recording() -> Iterator[list[Noted]]:
    """Notes the calls of `apply` in the block."""
    before, _tape.calls = _tape.calls, []
    try:
        yield _tape.calls
    finally:
        _tape.calls = before


def whereabouts(tensors: Sequence[Tensor]) -> list[Any]:
    """Where tensors lie, and what they are like: the same as long as kernels can be bound to them."""
    return [*map(Tensor.data_ptr, tensors), *map(Tensor.stride, tensors), *map(_kind, tensors)]


_kind = attrgetter("shape", "dtype", "device")


def bound(backend: Any, *call: Any) -> Bound | None:
    """What `bound` of a backend of an operator, where it has that, makes of a call."""
    bind: Callable[..., Bound | None] | None = getattr(backend, "bound", None)
    return bind(*call) if bind else None


def assembled(calls: Sequence[Noted], x: Tensor, y: Tensor, known: Mapping[int, Tensor]) -> Recording | None:
    """What makes y of x, from all calls on the way; None where something else has a part in it: a tensor that is
    neither x, nor the output of a call, nor one of those `known` by their ids."""
    values = {id(x): 0}
    parameters: dict[int, int] = {}
    found = []
    for function, arguments, output in calls:
        of_values, of_parameters, rest = [], [], list(arguments)
        for place, argument in enumerate(arguments):
            if not isinstance(argument, Tensor):
                continue
            if (number := values.get(id(argument))) is not None:
                of_values.append((place, number))
                rest[place] = None
            elif id(argument) in known:
                of_parameters.append((place, parameters.setdefault(id(argument), len(parameters))))
            else:
                return None
        kernels = function.bind(*arguments)
        found.append(Call(function, tuple(rest), tuple(of_values), tuple(of_parameters), kernels))
        values[id(output)] = len(found)
    if id(y) not in values:
        return None
    last, tensors = values[id(y)], tuple([known[key] for key in parameters])
    return Recording(tuple(found), last, tensors, Script.of(found, last, x), whereabouts(tensors))


def joined(recordings: Sequence[Recording]) -> Recording:
    """One recording, without a script, of what several do one after the other."""
    calls, parameters, given = list[Call](), list[Tensor](), 0
    for recording in recordings:
        first, before = len(calls), len(parameters)
        numbers = [given, *range(first + 1, first + 1 + len(recording.calls))]
        for call in recording.calls:
            calls.append(
                call._replace(
                    values=tuple([(place, numbers[number]) for place, number in call.values]),
                    parameters=tuple([(place, before + number) for place, number in call.parameters]),
                )
            )
        parameters += recording.parameters
        given = numbers[recording.output]
    return Recording(tuple(calls), given, tuple(parameters), None, [])
