"""Mixed operations under architecture weights and a sampled candidate run from their launches (docs/kernels.md).

That is what an alpha step asks for: every candidate runs, one hands gradients on, and no weight wants any. Once a block
has been asked so a few times, its launches are rehearsed (`asose_fast.ops.native.rehearsals`). While its modules are as
they were, these are launched from then on.
"""

from __future__ import annotations

import functools
import weakref
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from asose_fast.ops import registry
from asose_fast.ops.launched import launched
from asose_fast.ops.layout import dense, orders
from asose_fast.ops.library import PLAIN
from asose_fast.ops.native.rehearsals import as_it_was, rehearsed
from asose_fast.ops.native.rehearsed import Rehearsed
from asose_fast.ops.played import followed
from asose_fast.space.block import EvolvableBlock
from asose_fast.space.exact import is_told
from asose_fast.space.watch import Watch

LARGE = 1 << 23
"""Where x has more bytes, it is kernels that take the time, and rehearsals much memory."""
RARE = 8
"""So often a block runs as its modules say before it is rehearsed, which costs what its launches save in so many."""
MOST = 64
"""So much is known of a block, for a candidate each and for batches cut short."""


class _Kind(NamedTuple):
    """What the launches depend on apart from modules."""

    sampled: int
    training: bool
    shapes: tuple[torch.Size, torch.Size]
    dtypes: tuple[torch.dtype, ...]
    needs: tuple[bool, ...]
    threads: int


class _Known(NamedTuple):
    """What is known of a block that is asked so."""

    watch: Watch
    launches: Rehearsed | None
    left: int | None
    """It is to be rehearsed after so many times more, or no more."""


class Mixtures:
    """What is known of the blocks of a network. Copies of it, and what is read from a file, know nothing."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[EvolvableBlock, dict[_Kind, _Known]] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Mixtures], tuple[()]]:
        return Mixtures, ()

    def run(self, block: EvolvableBlock, x: Tensor, weights: Tensor, index: int) -> Tensor:
        """What block.mix(x, weights, index) gives, to the bit, of x that is `replay.replayable`."""
        if not _asked_so(block, x, weights, index):
            return block.mix(x, weights, index)
        x, weights, threads = dense(x), weights.contiguous(), torch.get_num_threads()
        needs = x.requires_grad, weights.requires_grad
        kind = _Kind(index, block.training, (x.shape, weights.shape), (x.dtype, weights.dtype), needs, threads)
        kinds = self._known.setdefault(block, {})
        known = kinds.get(kind)
        if known is None or not known.watch.unchanged():
            modules = list(block.modules())
            # What rehearsals change for a while has to be dense, and no tensor of torch.inference_mode.
            tensors = [*block.parameters(), *block.buffers()]
            due = registry.has_kernels("mixed_norm_sum", "cpu", x.dtype) and all(map(is_told, modules))
            due = due and None not in orders(tensors) and True not in map(Tensor.is_inference, tensors)
            held = {other: of for other, of in kinds.items() if of.watch.unchanged_but_for_flags()}
            held[kind] = _Known(Watch(modules), None, RARE - 1 if due else None)
            self._known[block] = dict(list(held.items())[-MOST:])
            return block.mix(x, weights, index)
        if True in [tensor.requires_grad for tensor in known.watch.tensors]:
            return block.mix(x, weights, index)
        if known.left:
            kinds[kind] = known._replace(left=known.left - 1)
        elif known.left == 0:
            function = functools.partial(_mix, block, index)
            parameters, buffers = list(block.parameters()), list(block.buffers())
            known = kinds[kind] = known._replace(
                launches=rehearsed(function, (x, weights), parameters, buffers), left=None
            )
        if known.launches is None:
            return block.mix(x, weights, index)
        return launched(known.launches, functools.partial(_again, block, index), x, weights)


def _mix(block: EvolvableBlock, index: int, x: Tensor, weights: Tensor) -> Tensor:
    return block.mix(x, weights, index)


def _again(block: EvolvableBlock, index: int, x: Tensor, weights: Tensor) -> Tensor:
    # A mode around backward is to see that alone.
    with as_it_was(list(block.buffers())), _disable_current_modes():
        return block.mix(x, weights, index)


def _asked_so(block: EvolvableBlock, x: Tensor, weights: Tensor, index: int) -> bool:
    """Whether gradients are wanted, and weights and gain are those that choose no other launches."""
    return (
        x.requires_grad | weights.requires_grad
        and torch.is_grad_enabled()
        and x.nbytes <= LARGE
        and type(weights) in PLAIN
        and weights.is_cpu
        and weights.dim() == 1
        and not (block.drops or followed())
        and [k for k, weight in enumerate(weights.tolist()) if weight] == [index]
        and block.gain.item() not in (0, 1)
    )
