"""A recording of calls (`asose_fast.ops.tape`) is played as one node of autograd."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops.autograd import batched, gradients, save
from asose_fast.ops.tape import Recording, whereabouts


def play(recording: Recording, x: Tensor) -> Tensor:
    """What a recording makes of x.

    Args:
        recording: one that has not to be made anew.
        x: like that of the recording: of its shape, dtype, device and memory format.

    Returns:
        What the calls would give one by one, to the bit, running statistics and gradients included.
    """
    if not recording.calls:
        return x
    y: Tensor = _Played.apply(recording, x, *recording.parameters)
    return y


class _Context:
    """Stands for the ctx that autograd would give a Function."""

    saved_tensors: tuple[Tensor | None, ...] = ()

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors


class _Played(torch.autograd.Function):
    """Its inputs: the recording, x and the parameters. It saves x and the parameters, and what the script or the calls
    save. Autograd keeps that, as it keeps what other nodes save, and frees it after backward."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        recording: Recording
        ctx, recording, x, *parameters = arguments
        ctx.recording, ctx.x, ctx.contexts = recording, whereabouts([x]), None
        if recording.script is not None and not _followed():
            y, kept = recording.script.forward(x)
            save(ctx, x, *parameters, kept)
            return y
        contexts, saved = _contexts(recording, *ctx.needs_input_grad[1:]), list[Tensor | None]()
        values: list[Tensor] = [x]
        for call, own in zip(recording.calls, contexts, strict=True):
            values.append(call.function.forward(own, *call.given(values)))
            saved += own.saved_tensors
            # Where the node has them: here they would live as long as the graph.
            own.saved_tensors = (None,) * len(own.saved_tensors)
        ctx.contexts = contexts
        save(ctx, x, *parameters, *saved)
        return values[recording.output]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        recording = ctx.recording
        x, *tensors = ctx.saved_tensors
        count = len(recording.parameters)
        parameters, saved = tensors[:count], tensors[count:]
        differentiable = torch.is_grad_enabled() or batched(grad)
        moved = whereabouts([x]) != ctx.x or whereabouts(parameters) != recording.whereabouts
        if not (differentiable or moved or ctx.contexts or _followed()) and recording.script.live():
            (kept,), (_, need, *needs) = saved, ctx.needs_input_grad
            grad = grad.contiguous(memory_format=torch.channels_last)
            return None, *recording.script.backward(grad, x, kept, parameters, need, tuple(needs))
        contexts = _as_they_were(ctx, x, saved)
        if differentiable:
            return gradients(ctx, functools.partial(_plain, contexts), (recording, x, *parameters), [grad])
        return None, *_backward(recording, contexts, grad)


def _followed() -> bool:
    """Whether a profiler or a mode is to see the operators."""
    return bool(torch.autograd.profiler._is_profiler_enabled or torch._C._len_torch_dispatch_stack())


def _contexts(recording: Recording, need: bool, *needs: bool) -> list[_Context]:
    """One for each call, where the gradients of x and of these parameters are wanted."""
    contexts, needed = [], [need]
    for call in recording.calls:
        contexts.append(_Context(call.needs(needed, needs)))
        needed.append(True in contexts[-1].needs_input_grad)
    return contexts


def _as_they_were(ctx: Any, x: Tensor, saved: Sequence[Tensor]) -> list[_Context]:
    """The contexts of the calls after forward, each with what its call saved."""
    recording: Recording = ctx.recording
    if ctx.contexts is not None:
        contexts, end = list(map(copy.copy, ctx.contexts)), 0
        for own in contexts:
            start, end = end, end + len(own.saved_tensors)
            own.saved_tensors = tuple(saved[start:end])
        return contexts
    assert recording.script is not None
    contexts = _contexts(recording, *ctx.needs_input_grad[1:])
    values, of_calls = recording.script.kept_tensors(x, *saved)
    for call, own, kept in zip(recording.calls, contexts, of_calls, strict=True):
        call.function.keep(own, call.given(values), *kept)
    return contexts


def _backward(recording: Recording, contexts: Sequence[_Context], grad: Tensor) -> list[Tensor | None]:
    """The gradients of x and of the parameters, as far as they are needed, from that of the output."""
    values: list[Tensor | None] = [None] * (len(contexts) + 1)
    parameters: list[Tensor | None] = [None] * len(recording.parameters)
    values[recording.output] = grad
    for number in range(len(contexts), 0, -1):
        given, call, own = values[number], recording.calls[number - 1], contexts[number - 1]
        if given is None or True not in own.needs_input_grad:
            continue
        found = call.function.backward(own, given)
        for uses, sums in ((call.values, values), (call.parameters, parameters)):
            for place, to in uses:
                one, other = found[place], sums[to]
                sums[to] = one if other is None else other if one is None else other + one
    return [values[0], *parameters]


def _plain(contexts: Sequence[_Context], recording: Recording, x: Tensor, *parameters: Tensor) -> Tensor:
    """The calls in plain PyTorch, with the norms as they were."""
    values = [x]
    for call, own in zip(recording.calls, contexts, strict=True):
        function, arguments = call.function.plain(own)
        same = call._replace(arguments=tuple(arguments))
        values.append(function(*same.given(values, parameters)))
    return values[recording.output]
