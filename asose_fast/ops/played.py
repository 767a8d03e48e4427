"""Recordings of calls (`asose_fast.ops.tape`) are played as one node of autograd."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops.autograd import batched, gradients, save
from asose_fast.ops.tape import Recording, joined, whereabouts


def play(recordings: Sequence[Recording], x: Tensor) -> Tensor:
    """What recordings, one after the other, make of x, as one node.

    Args:
        recordings: some that have not to be made anew. All have scripts, or there is one.
        x: like that of the first recording: of its shape, dtype, device and memory format.

    Returns:
        What the calls would give one by one, to the bit, running statistics and gradients included.
    """
    parameters = [parameter for recording in recordings for parameter in recording.parameters]
    y: Tensor = _Played.apply(recordings, x, *parameters)
    return y


class _Context:
    """Stands for the ctx that autograd would give a Function."""

    saved_tensors: tuple[Tensor | None, ...] = ()

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors


class _Played(torch.autograd.Function):
    """Its inputs: the recordings, x and the parameters. Autograd saves x, the parameters and what calls save. What
    scripts keep the node itself has, and lets go of script by script, as backward is done with it."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        recordings: Sequence[Recording]
        x: Tensor
        ctx, recordings, x, *parameters = arguments
        ctx.recordings, ctx.x, ctx.contexts, ctx.kept = recordings, whereabouts([x]), None, []
        if recordings[0].script is not None and not followed():
            save(ctx, x, *parameters)
            for recording in recordings:
                assert recording.script is not None
                y, kept = recording.script.forward(x)
                ctx.kept.append((x, kept))
                x = y
            return x
        whole = joined(recordings)
        contexts, saved = _contexts(whole, *ctx.needs_input_grad[1:]), list[Tensor | None]()
        values: list[Tensor] = [x]
        for call, own in zip(whole.calls, contexts, strict=True):
            values.append(call.function.forward(own, *call.given(values)))
            saved += own.saved_tensors
            # Where the node has them: here they would live as long as the graph.
            own.saved_tensors = (None,) * len(own.saved_tensors)
        ctx.contexts = contexts
        save(ctx, x, *parameters, *saved)
        return values[whole.output]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        recordings: Sequence[Recording] = ctx.recordings
        x, *tensors = ctx.saved_tensors
        differentiable = torch.is_grad_enabled() or batched(grad)
        parameters = _by_recording(recordings, tensors)
        moved = whereabouts([x]) != ctx.x or any(
            whereabouts(own) != recording.whereabouts for own, recording in zip(parameters, recordings, strict=True)
        )
        if not (differentiable or moved or ctx.contexts or followed()) and _live(recordings):
            return None, *_run_back(ctx, grad, parameters)
        whole = joined(recordings)
        contexts = _as_they_were(ctx, whole, x, tensors[len(whole.parameters) :])
        if differentiable:
            of_parameters = tensors[: len(whole.parameters)]
            return gradients(ctx, functools.partial(_plain, contexts), (whole, x, *of_parameters), [grad])
        return None, *_backward(whole, contexts, grad)


def _by_recording(recordings: Sequence[Recording], of_parameters: Sequence[Any]) -> list[Sequence[Any]]:
    """What belongs to the parameters of each recording, from what belongs to those of all."""
    found, end = [], 0
    for recording in recordings:
        start, end = end, end + len(recording.parameters)
        found.append(of_parameters[start:end])
    return found


def _live(recordings: Sequence[Recording]) -> bool:
    return all([recording.script is not None and recording.script.live() for recording in recordings])


def _run_back(ctx: Any, grad: Tensor | None, parameters: Sequence[Sequence[Tensor]]) -> list[Tensor | None]:
    """The gradients of x and of the parameters, from scripts."""
    _, need, *rest = ctx.needs_input_grad
    needs = _by_recording(ctx.recordings, rest)
    needed = [need]
    for own in needs:
        needed.append(needed[-1] or True in own)
    kept = list(ctx.kept)
    # Whoever wants to come back needs all of it once more.
    if not torch._C._autograd._get_current_graph_task_keep_graph():
        ctx.kept = None
    found: list[Tensor | None] = []
    for recording, own, of_x, of_own in zip(
        reversed(ctx.recordings), reversed(parameters), reversed(needed[:-1]), reversed(needs), strict=True
    ):
        x, buffer = kept.pop()
        if grad is None:
            found = [*[None] * len(own), *found]
            continue
        grad = grad.contiguous(memory_format=torch.channels_last if grad.dim() == 4 else torch.contiguous_format)
        grad, *of_parameters = recording.script.backward(grad, x, buffer, own, of_x, tuple(of_own))
        found = [*of_parameters, *found]
    return [grad, *found]


def followed() -> bool:
    """Whether a profiler or a mode is to see the operators."""
    return bool(torch.autograd.profiler._is_profiler_enabled or torch._C._len_torch_dispatch_stack())


def _contexts(recording: Recording, need: bool, *needs: bool) -> list[_Context]:
    """One for each call, where the gradients of x and of these parameters are wanted."""
    contexts, needed = [], [need]
    for call in recording.calls:
        contexts.append(_Context(call.needs(needed, needs)))
        needed.append(True in contexts[-1].needs_input_grad)
    return contexts


def _as_they_were(ctx: Any, whole: Recording, x: Tensor, saved: Sequence[Tensor]) -> list[_Context]:
    """The contexts of the calls after forward, each with what its call saved."""
    if ctx.contexts is not None:
        contexts, end = list(map(copy.copy, ctx.contexts)), 0
        for own in contexts:
            start, end = end, end + len(own.saved_tensors)
            own.saved_tensors = tuple(saved[start:end])
        return contexts
    contexts = _contexts(whole, *ctx.needs_input_grad[1:])
    values, of_calls = list[Tensor](), list[Sequence[Tensor]]()
    for recording, (own_x, kept) in zip(ctx.recordings, ctx.kept, strict=True):
        inner, of_own = recording.script.kept_tensors(own_x, kept)
        values += inner
        of_calls += of_own
    values[0] = x
    for call, own, of_call in zip(whole.calls, contexts, of_calls, strict=True):
        call.function.keep(own, call.given(values), *of_call)
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
