"""Parts of a network run from recordings of themselves, those in a row as one node of autograd (docs/kernels.md).

What a part calls depends on its modules and on what kind of tensor it is given. The first time it runs as its modules
say, and what it calls is recorded. While neither has changed, the recording is played. A part in which something else
than recorded calls of kernels makes the output always runs as its modules say.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from types import NoneType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.autocast import autocasts
from asose_fast.ops.autograd import saved_elsewhere, transformed
from asose_fast.ops.layout import dense
from asose_fast.ops.library import PLAIN
from asose_fast.ops.played import play
from asose_fast.ops.tape import Recording, assembled, recording
from asose_fast.space.exact import classes_are_theirs, is_told
from asose_fast.space.watch import Watch

MOST = 64
"""So many recordings are kept of a part; it rarely needs more than one a candidate, and one for a batch cut short."""


class Part(NamedTuple):
    """A part of a network, and all that decides what it calls."""

    run: Callable[[Tensor], Tensor]
    owner: nn.Module
    """The recordings are kept as long as this one lives."""
    choice: int | None
    """Its candidate, where there is a choice."""
    modules: Callable[[], list[nn.Module] | None]
    """Gives the modules that may run; None where that is not known, and the part always runs."""


class _Kind(NamedTuple):
    """What a recording depends on apart from modules."""

    choice: int | None
    training: bool
    """A flag of the owner. It is here so that epochs of training and tests between them do not undo each other's."""
    shape: Sequence[int]
    dtype: torch.dtype


class _Known(NamedTuple):
    """What is known of a part for tensors of a kind."""

    watch: Watch
    recording: Recording | None


class Recordings:
    """What is known of the parts of a network. Copies of it, and what is read from a file, know nothing."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[nn.Module, dict[_Kind, _Known]] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Recordings], tuple[()]]:
        return Recordings, ()

    def run(self, parts: Iterable[Part], x: Tensor) -> Tensor:
        """Runs parts one after the other on x, which is `replayable`, those that are known from their recordings.
        Results are those of their modules, to the bit."""
        row = list[Recording]()
        shape: Sequence[int] = x.shape
        for part in parts:
            if not (row or _takes(x)):
                x = part.run(x)
                continue
            known = self._of(part, shape if row else x.shape, x.dtype)
            if known is not None and (found := known.recording) is not None:
                if found.script is not None:
                    row.append(found)
                    shape = found.script.y
                elif found.calls:
                    x, row = _play([found], _play(row, x)), []
                continue
            x, row = _play(row, x), []
            x = self._record(part, dense(x)) if known is None else part.run(x)
        return _play(row, x)

    def _of(self, part: Part, shape: Sequence[int], dtype: torch.dtype) -> _Known | None:
        """What is known, and still holds, of a part for tensors of this shape."""
        kind = _Kind(part.choice, part.owner.training, shape, dtype)
        known = self._known.get(part.owner, {}).get(kind)
        return known if known is not None and known.watch.unchanged() else None

    def _record(self, part: Part, x: Tensor) -> Tensor:
        """Runs a part, and keeps what it calls."""
        modules = part.modules()
        # What stands in for parameters, as in torch.func.functional_call, comes and goes.
        if modules is None or not all(map(_has_parameters_of_its_own, modules)):
            return part.run(x)
        watch = Watch(modules)
        with recording() as calls:
            y = part.run(x)
        tensors = {id(tensor): tensor for tensor in watch.tensors if tensor.is_leaf and type(tensor) in PLAIN}
        found = assembled(calls, x, y, tensors) if all(map(is_told, modules)) else None
        # What no longer holds would keep alive what modules have let go.
        before = self._known.get(part.owner, {}).items()
        held = {kind: known for kind, known in before if known.watch.unchanged_but_for_flags()}
        held[_Kind(part.choice, part.owner.training, x.shape, x.dtype)] = _Known(watch, found)
        self._known[part.owner] = dict(list(held.items())[-MOST:])
        return y


def _play(row: Sequence[Recording], x: Tensor) -> Tensor:
    return play(row, dense(x)) if row else x


def _has_parameters_of_its_own(module: nn.Module) -> bool:
    return all(type(parameter) in (nn.Parameter, NoneType) for parameter in module._parameters.values())


def replayable(x: Tensor) -> bool:
    """Says whether x is for kernels, and nobody follows the modules of a network, or the operators, one by one."""
    return (
        not torch.compiler.is_compiling()
        and _takes(x)
        and not (transformed() or torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack())
        and not (autocasts(x) or saved_elsewhere() or registry.forced())
        and classes_are_theirs()
    )


def _takes(x: Tensor) -> bool:
    return type(x) in PLAIN and x.is_cpu and x.dim() == 4 and x.dtype in (torch.float32, torch.float64)
