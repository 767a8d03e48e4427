"""Calls of autograd Functions on a tape, which plays them again as one node of autograd.

Whoever finds out what to call spends more time on that than many a kernel takes. What was found is the same in the next
step: a `Recording` has it. Whether it still holds is for its keeper to know (`asose_fast.space.replay`).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from asose_fast.ops.autograd import batched, gradients


class Function(Protocol):
    """An autograd Function of one output that a tape can play."""

    apply: Callable[..., Any]
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor | None, ...]]
    plain: Callable[[Any], tuple[Callable[..., Tensor], Sequence[Any]]]
    """From the ctx of a backward pass, the function in plain PyTorch and its arguments (`autograd.gradients`)."""
    """It may also have `bind`, which gives, from the arguments, kernels to which parameters and shapes are bound, for
    `autograd.bound`, or None."""


class Call(NamedTuple):
    """A call of a Function."""

    function: Function
    arguments: tuple[Any, ...]
    """None in the places of values."""
    values: tuple[tuple[int, int], ...]
    """Places among the arguments, and the numbers of the values there: 0 is the input of the recording, and the outputs
    of its calls follow."""
    parameters: tuple[tuple[int, int], ...]
    """Other places, and the numbers of the recording's parameters there."""
    kernels: Any
    """What `bind` of the function gave."""

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


class _Tape(threading.local):
    """The calls of a thread that records, and what it has seen of tensors."""

    calls: list[tuple[Function, tuple[Any, ...], Tensor]] | None = None


_tape = _Tape()


def places(tensors: Sequence[Tensor]) -> list[Any]:
    """Where tensors lie, and what they are like: the same as long as kernels can be bound to them."""
    return [*map(Tensor.data_ptr, tensors), *map(Tensor.stride, tensors), *map(_kind, tensors)]


_kind = attrgetter("shape", "dtype", "device")


def apply(function: Any, *arguments: Any) -> Tensor:
    """`function.apply(*arguments)` for a `Function`, which is noted where the thread records."""
    y: Tensor = function.apply(*arguments)
    if _tape.calls is not None:
        _tape.calls.append((function, arguments, y))
    return y


@contextlib.contextmanager
def recording() -> Iterator[list[tuple[Function, tuple[Any, ...], Tensor]]]:
    """Notes the calls of `apply` in the block: function, arguments and output."""
    before, _tape.calls = _tape.calls, []
    try:
        yield _tape.calls
    finally:
        _tape.calls = before


def compiled(
    calls: Sequence[tuple[Function, tuple[Any, ...], Tensor]], x: Tensor, y: Tensor, known: Mapping[int, Tensor]
) -> Recording | None:
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
        bind = getattr(function, "bind", None)
        kernels = bind(*arguments) if bind else None
        found.append(Call(function, tuple(rest), tuple(of_values), tuple(of_parameters), kernels))
        values[id(output)] = len(found)
    if id(y) not in values:
        return None
    return Recording(tuple(found), values[id(y)], tuple([known[key] for key in parameters]))


def play(recordings: Sequence[Recording], x: Tensor) -> Tensor:
    """What the recordings make of x, one after the other, as one node of autograd.

    Args:
        recordings: none of which has to be made anew.
        x: like that of the first recording: of its shape, dtype, device and memory format.

    Returns:
        What the calls would give one by one, to the bit, running statistics and gradients included.
    """
    if not any(recording.calls for recording in recordings):
        return x
    parameters = [parameter for recording in recordings for parameter in recording.parameters]
    y: Tensor = _Played.apply(recordings, x, *parameters)
    return y


class _Context:
    """Stands for the ctx that autograd would give a Function."""

    saved_tensors: tuple[Tensor | None, ...] = ()

    def __init__(self, needs_input_grad: tuple[bool, ...], kernels: Any) -> None:
        self.needs_input_grad, self.bound = needs_input_grad, kernels

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors


class _Played(torch.autograd.Function):
    """Its inputs: the recordings, x and the parameters of all."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        ctx, recordings, x, *parameters = arguments
        _, need, *needs = ctx.needs_input_grad
        played: list[list[_Context]] = []
        saved = [x, *parameters]
        # A profiler is to see the operators.
        watched = torch.autograd.profiler._is_profiler_enabled
        start = 0
        for recording in recordings:
            end = start + len(recording.parameters)
            values, contexts, needed, wanted = [x], [], [need], needs[start:end]
            for call in recording.calls:
                own = _Context(call.needs(needed, wanted), None if watched else call.kernels)
                values.append(call.function.forward(own, *call.given(values)))
                needed.append(True in own.needs_input_grad)
                saved += own.saved_tensors
                contexts.append(own)
            played.append(contexts)
            x, need, start = values[recording.output], needed[recording.output], end
        # Autograd keeps them, as it keeps those of other nodes, and frees them after backward.
        ctx.save_for_backward(*saved)
        ctx.recordings, ctx.played, ctx.places = recordings, played, places(parameters)
        _let_go(played)
        return x  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        recordings, played, saved = ctx.recordings, ctx.played, ctx.saved_tensors
        end = len(ctx.needs_input_grad) - 1
        inputs = saved[:end]
        moved = places(inputs[1:]) != ctx.places or torch.autograd.profiler._is_profiler_enabled
        for own in chain.from_iterable(played):
            start, end = end, end + len(own.saved_tensors)
            own.saved_tensors = saved[start:end]
            if moved:
                own.bound = None
        try:
            if torch.is_grad_enabled() or batched(grad):
                return gradients(ctx, functools.partial(_plain, played), (recordings, *inputs), [grad])
            found: list[Tensor | None] = []
            of_x: Tensor | None = grad
            for recording, contexts in zip(reversed(recordings), reversed(played), strict=True):
                of_x, of_parameters = _backward(recording, contexts, of_x)
                found = of_parameters + found
            return None, of_x, *found
        finally:
            _let_go(played)


def _let_go(played: Sequence[Sequence[_Context]]) -> None:
    """Leaves the number of the saved tensors and not these, which would live as long as the graph."""
    for own in chain.from_iterable(played):
        own.saved_tensors = (None,) * len(own.saved_tensors)


def _backward(
    recording: Recording, contexts: Sequence[_Context], grad: Tensor | None
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The gradients of the input of a recording and of its parameters, as far as they are needed, from that of the
    output."""
    values: list[Tensor | None] = [None] * (len(contexts) + 1)
    parameters: list[Tensor | None] = [None] * len(recording.parameters)
    values[recording.output] = grad
    for number in range(len(contexts), 0, -1):
        given, call, own = values[number], recording.calls[number - 1], contexts[number - 1]
        if given is None or True not in own.needs_input_grad:
            continue
        found = call.function.backward(own, given)
        for places, sums in ((call.values, values), (call.parameters, parameters)):
            for place, to in places:
                one, other = found[place], sums[to]
                sums[to] = one if other is None else other if one is None else other + one
    return values[0], parameters


def _plain(
    played: Sequence[Sequence[_Context]], recordings: Sequence[Recording], x: Tensor, *parameters: Tensor
) -> Tensor:
    """The calls in plain PyTorch, with the norms as they were."""
    start = 0
    for recording, contexts in zip(recordings, played, strict=True):
        values, end = [x], start + len(recording.parameters)
        for call, own in zip(recording.calls, contexts, strict=True):
            function, arguments = call.function.plain(own)
            same = call._replace(arguments=tuple(arguments))
            values.append(function(*same.given(values, parameters[start:end])))
        x, start = values[recording.output], end
    return x
