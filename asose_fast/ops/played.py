"""Recordings of calls (`asose_fast.ops.tape`) are played as one node of autograd."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast.ops.autograd import batched, gradients
from asose_fast.ops.tape import Recording


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


def places(tensors: Sequence[Tensor]) -> list[Any]:
    """Where tensors lie, and what they are like: the same as long as kernels can be bound to them."""
    return [*map(Tensor.data_ptr, tensors), *map(Tensor.stride, tensors), *map(_kind, tensors)]


_kind = attrgetter("shape", "dtype", "device")


class _Context:
    """Stands for the ctx that autograd would give a Function."""

    saved_tensors: tuple[Tensor | None, ...] = ()

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors


class _Part(NamedTuple):
    """What a node knows of a recording that it plays."""

    recording: Recording
    need: bool
    """Whether the gradient of the input is wanted; `needs` says so of the parameters."""
    needs: tuple[bool, ...]
    contexts: list[_Context] | None
    """Those of the calls, or None where the script runs."""
    saved: int
    """How many tensors the node saves for it: those of all contexts, or the script's x and what it keeps."""

    def contexts_with(self, saved: Sequence[Tensor]) -> list[_Context]:
        """The contexts of all calls, for a backward pass."""
        contexts = self._of_script(*saved) if self.contexts is None else self.contexts
        if self.contexts is not None:
            end = 0
            for own in contexts:
                start, end = end, end + len(own.saved_tensors)
                own.saved_tensors = tuple(saved[start:end])
        return contexts

    def _of_script(self, x: Tensor, kept: Tensor) -> list[_Context]:
        assert self.recording.script is not None
        contexts, needed = [], [self.need]
        tensors = self.recording.script.kept_tensors(x, kept)
        for call, (values, saved) in zip(self.recording.calls, tensors, strict=True):
            own = _Context(call.needs(needed, self.needs))
            given = list(call.arguments)
            for (place, _), value in zip(call.values, values, strict=True):
                given[place] = value
            call.function.keep(own, given, *saved)
            needed.append(True in own.needs_input_grad)
            contexts.append(own)
        return contexts


class _Played(torch.autograd.Function):
    """Its inputs: the recordings, x and the parameters of all."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        ctx, recordings, x, *parameters = arguments
        _, need, *needs = ctx.needs_input_grad
        saved = [x, *parameters]
        parts: list[_Part] = []
        end = 0
        for recording in recordings:
            start, end = end, end + len(recording.parameters)
            part, x, need, more = _forward(recording, x, need, tuple(needs[start:end]))
            parts.append(part)
            saved += more
        # Autograd keeps them, as it keeps those of other nodes, and frees them after backward.
        ctx.save_for_backward(*saved)
        ctx.parts, ctx.places = parts, places(parameters)
        return x  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parts: list[_Part] = ctx.parts
        end = len(ctx.needs_input_grad) - 1
        (x, *parameters), saved = ctx.saved_tensors[:end], ctx.saved_tensors[end:]
        if torch.is_grad_enabled() or batched(grad):
            with _contexts(parts, saved) as played:
                recordings = [part.recording for part in parts]
                return gradients(ctx, functools.partial(_plain, played), (recordings, x, *parameters), [grad])
        scripted = not _followed() and places(parameters) == ctx.places
        found: list[Tensor | None] = []
        of_x: Tensor | None = grad
        for part in reversed(parts):
            own, saved = saved[len(saved) - part.saved :], saved[: len(saved) - part.saved]
            script = part.recording.script if scripted and part.contexts is None else None
            if script is not None and of_x is not None and script.live():
                of_x = of_x.contiguous(memory_format=torch.channels_last)
                of_x, more = script.backward(of_x, *own, part.recording.parameters, part.need, part.needs)
            else:
                with _contexts([part], own) as (contexts,):
                    of_x, more = _backward(part.recording, contexts, of_x)
            found = more + found
        return None, of_x, *found


def _followed() -> bool:
    """Whether a profiler is to see the operators."""
    return bool(torch.autograd.profiler._is_profiler_enabled)


def _forward(
    recording: Recording, x: Tensor, need: bool, needs: tuple[bool, ...]
) -> tuple[_Part, Tensor, bool, Sequence[Tensor | None]]:
    """What the node is to know of a recording, its output, whether that has a gradient, and what is to be saved."""
    if recording.script is not None and not _followed():
        y, kept = recording.script.forward(x)
        return _Part(recording, need, needs, None, 2), y, need or True in needs, (x, kept)
    values, needed, contexts, saved = [x], [need], list[_Context](), list[Tensor | None]()
    for call in recording.calls:
        own = _Context(call.needs(needed, needs))
        values.append(call.function.forward(own, *call.given(values)))
        needed.append(True in own.needs_input_grad)
        saved += own.saved_tensors
        contexts.append(own)
    part = _Part(recording, need, needs, contexts, len(saved))
    _let_go(contexts)
    return part, values[recording.output], needed[recording.output], saved


@contextlib.contextmanager
def _contexts(parts: Sequence[_Part], saved: Sequence[Tensor]) -> Iterator[list[list[_Context]]]:
    """The contexts of the calls of all parts, which have what was saved inside the block."""
    found, end = [], 0
    for part in parts:
        start, end = end, end + part.saved
        found.append(part.contexts_with(saved[start:end]))
    try:
        yield found
    finally:
        _let_go(itertools.chain.from_iterable(found))


def _let_go(contexts: Iterable[_Context]) -> None:
    """Leaves the number of the saved tensors and not these, which would live as long as the graph."""
    for own in contexts:
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
