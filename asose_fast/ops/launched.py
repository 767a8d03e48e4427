"""Functions run from their launches (`asose_fast.ops.native.rehearsals`), those in a row as one node of autograd."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast.ops.autocast import without_autocast
from asose_fast.ops.autograd import batched, save
from asose_fast.ops.native import addresses
from asose_fast.ops.native.rehearsed import NOTHING, Block, Rehearsed, block, holding
from asose_fast.ops.native.whereabouts import whereabouts


class Piece(NamedTuple):
    """A function of x, of weights where it has some, and of parameters that it holds itself."""

    rehearsed: Rehearsed
    """Its launches for tensors like these. `wanted` numbers x, the weights and the parameters."""
    again: Callable[..., Tensor]
    """The function without its effects on anything but its output, of x and the weights."""
    weights: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    """Those that want gradients."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those beside x that may want gradients."""
        return self.weights + self.parameters


def launched(row: Sequence[Piece], x: Tensor) -> Tensor:
    """What pieces, one after the other, make of x, by their launches.

    Backward runs the functions again where it is to be differentiated itself, or is followed operator by operator, or
    where tensors have moved.

    Args:
        row: at least one. All outputs but the last are inputs of the next.
        x: dense, like that for which the first piece's launches were found.
    """
    y: Tensor = _Launched.apply(row, x, *itertools.chain(*[piece.tensors for piece in row]))
    return y


def followed() -> bool:
    """Whether a profiler or a mode is to see the operators."""
    return bool(torch.autograd.profiler._is_profiler_enabled or torch._C._len_torch_dispatch_stack())


class _Launched(torch.autograd.Function):
    """Autograd saves x, the weights, and what backward reads of parameters: it knows when they are written before that.
    What is between the pieces, and what they keep, the node has itself, and lets go of as backward goes on."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        row: Sequence[Piece]
        ctx, row, x, *_ = arguments
        read = list(itertools.chain(*[(*piece.weights, *piece.rehearsed.read) for piece in row]))
        ctx.row, ctx.whereabouts = row, whereabouts([x, *read])
        y, keeps = row[-1].rehearsed.y.empty(), True in ctx.needs_input_grad
        ctx.between, ctx.kept, given = list[Block](), list[Block](), holding(x)
        for number, piece in enumerate(row, 1):
            last = number == len(row)
            to = holding(y) if last else block(piece.rehearsed.y.bytes)
            kept = piece.rehearsed.run_forward([given.address, *addresses(piece.weights)], to.address)
            if keeps:
                ctx.kept.append(kept)
                ctx.between += [] if last else [to]
            given = to
        save(ctx, x, *read, y if row[-1].rehearsed.reads_y else None)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        row: Sequence[Piece] = ctx.row
        x, *read, y = ctx.saved_tensors
        inputs, kept = [holding(x), *ctx.between], list(ctx.kept)
        # Whoever wants to come back needs all of it once more.
        if not torch._C._autograd._get_current_graph_task_keep_graph():
            ctx.between = ctx.kept = None
        if torch.is_grad_enabled() or batched(grad) or followed() or whereabouts([x, *read]) != ctx.whereabouts:
            return None, *_by_functions(ctx, x, grad)
        if grad is not None:
            grad = grad.contiguous(memory_format=row[-1].rehearsed.y.format)
        found: list[Tensor | None] = []
        output, of_output = holding(y), holding(grad)
        for piece in reversed(row):
            given, own = inputs.pop(), dict[int, Block]()
            if of_output.address:
                own = _gradients(piece, given, output, of_output, kept.pop(), between=bool(inputs))
            output, of_output = given, own.get(0, NOTHING)
            found = [*[own.get(number, NOTHING).held for number in range(1, 1 + len(piece.tensors))], *found]
        return None, of_output.held, *found


def _gradients(
    piece: Piece, given: Block, output: Block, of_output: Block, kept: Block, between: bool
) -> dict[int, Block]:
    """The gradients of a piece by their numbers, held by tensors, but for that of an x `between` pieces."""
    rehearsed = piece.rehearsed
    of_parameters = rehearsed.of_parameters.empty()
    of_inputs = rehearsed.gradients[: len(rehearsed.gradients) - len(of_parameters)]
    found = [
        block(kind.bytes) if between and number == 0 else holding(kind.empty())
        for number, kind in zip(rehearsed.wanted, of_inputs, strict=False)
    ]
    found += map(holding, of_parameters)
    rehearsed.run_backward(
        of_output.address, [given.address, *addresses(piece.weights)], output.address, kept,
        [gradient.address for gradient in found],
    )  # fmt: skip
    return dict(zip(rehearsed.wanted, found, strict=True))


def _by_functions(ctx: Any, x: Tensor, grad: Tensor | None) -> list[Tensor | None]:
    """The gradients of x and all tensors from the functions themselves."""
    _, *needs = ctx.needs_input_grad
    if grad is None:
        return [None] * len(needs)
    again, row = torch.is_grad_enabled(), ctx.row
    with torch.enable_grad(), without_autocast(grad):
        # Aliases: a tensor that is given twice has a gradient for each. Parameters the functions have themselves.
        y = start = x.view_as(x) if needs[0] else x
        tensors: list[Tensor] = [start]
        for piece in row:
            weights = [w.view_as(w) if w.requires_grad else w for w in piece.weights]
            tensors += [*weights, *piece.parameters]
            y = piece.again(y, *weights)
        wanted = {id(t): t for t, need in zip(tensors, needs, strict=True) if need}
        gradients = torch.autograd.grad(y, list(wanted.values()), grad, create_graph=again, allow_unused=True)
    of = dict(zip(wanted, gradients, strict=True))
    # A parameter of several pieces has the gradient of all at the first.
    return [of.pop(id(t), None) if need else None for t, need in zip(tensors, needs, strict=True)]
