"""Parts of a network run from their launches, those in a row as one node of autograd (docs/kernels.md).

What a part launches depends on its modules and on what kind of tensors it is given. Once it has been asked for the same
a few times, its launches are rehearsed (`asose_fast.ops.native.rehearsals`). While its modules are as they were, these
are launched from then on. A part in which something else than kernels has a hand always runs as its modules say.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import NoneType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from asose_fast import _native
from asose_fast.ops import registry
from asose_fast.ops.autocast import autocasts
from asose_fast.ops.autograd import saved_elsewhere, transformed
from asose_fast.ops.launched import Piece, followed, launched
from asose_fast.ops.layout import dense, orders
from asose_fast.ops.library import PLAIN
from asose_fast.ops.native.rehearsals import as_it_was, rehearse
from asose_fast.ops.native.rehearsed import Rehearsed
from asose_fast.space.exact import classes_are_theirs, is_told
from asose_fast.space.held import held
from asose_fast.space.parts import run_on_kernels
from asose_fast.space.watch import Watch

LARGE = 1 << 23
"""Where x has more bytes for each candidate that hands gradients on, it is kernels that take the time, and rehearsals
much memory."""
RARE = 8
"""So often a part runs as its modules say before it is rehearsed, which costs what its launches save in so many."""
MOST = 64
"""So many kinds are known of a part; it rarely needs more than one a candidate, and one for a batch cut short."""


class Part(NamedTuple):
    """A part of a network, and all that decides what it launches."""

    run: Callable[..., Tensor]
    """Of x, and of the weights where there are some."""
    owner: nn.Module
    """What is known of the part is kept as long as this one lives."""
    choice: int | None
    """Its candidate, where there is a choice."""
    modules: Callable[[], list[nn.Module] | None]
    """Gives the modules that may run; None where that is not known, and the part always runs."""
    weights: Tensor | None = None
    """Of the candidates (K,). Which of them are 0 decides too."""
    gain: Tensor | None = None
    """A scalar that decides where it is 0 or 1."""


def sequence(modules: nn.Module) -> Part:
    """Gives the part that a sequence of modules is."""
    return Part(functools.partial(run_on_kernels, modules), modules, None, lambda: list(modules.modules()))


class _Kind(NamedTuple):
    """What launches depend on apart from modules."""

    choice: int | None
    training: bool
    """A flag of the owner. It is here so that epochs of training and tests between them do not undo each other's."""
    gradients: bool
    """Whether autograd is on."""
    needs: tuple[bool, bool]
    """Whether x and the weights want gradients."""
    shape: Sequence[int]
    dtype: torch.dtype
    of_weights: tuple[torch.dtype, tuple[bool, ...]] | None
    """The dtype of the weights, and which are not 0."""
    gain: float | None
    """If it decides."""
    threads: int


class _OfPart(NamedTuple):
    """The launches of a part, the parameters that want gradients, and all buffers."""

    rehearsed: Rehearsed
    parameters: tuple[Tensor, ...]
    buffers: Sequence[Tensor]

    def piece(self, part: Part) -> Piece:
        """The launches as those of the part now."""
        return Piece(self.rehearsed, functools.partial(_again, part.run, self.buffers), _weights(part), self.parameters)


class _Known(NamedTuple):
    """What is known of a part for tensors of a kind: its launches, or else that it runs as its modules say.

    It does not hold the part, which would outlive its network.
    """

    watch: Watch
    launches: _OfPart | None = None
    identity: bool = False
    """It gives x itself."""
    left: int | None = None
    """It runs so many times more before it is rehearsed; None where it is not to be rehearsed, or has been."""


class Launches:
    """What is known of the parts of a network. Copies of it, and what is read from a file, know nothing."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[nn.Module, dict[_Kind, list[_Known]]] = weakref.WeakKeyDictionary()
        self._threads, self._lock = weakref.WeakSet[threading.Thread](), threading.Lock()

    def __reduce__(self) -> tuple[type[Launches], tuple[()]]:
        return Launches, ()

    def run(self, parts: Iterable[Part], x: Tensor) -> Tensor:
        """Runs parts one after the other on x, which is `replayable`, those that are known from their launches.
        Results are those of their modules, to the bit."""
        with self._lock:
            self._threads.add(threading.current_thread())
        row = list[Piece]()
        for part in parts:
            kind = _kind_of(part, row, x)
            if kind is None:
                x, row = _by_modules(part, _launched(row, x)), []
                continue
            known = self._of(part, kind)
            if known is None or known.left is not None:
                x, row = dense(_launched(row, x)), []
                known, x = self._learned(part, kind, known, x)
            elif known.launches is None and not known.identity:
                x, row = _by_modules(part, _launched(row, x)), []
            if known is not None and known.launches is not None:
                row.append(known.launches.piece(part))
        return _launched(row, x)

    def _of(self, part: Part, kind: _Kind) -> _Known | None:
        """What is known, and still holds, of a part for tensors of this kind."""
        for known in self._known.get(part.owner, {}).get(kind, ()):
            if known.watch.unchanged():
                return known
        return None

    def _learned(self, part: Part, kind: _Kind, known: _Known | None, x: Tensor) -> tuple[_Known | None, Tensor]:
        """Runs the part and counts that, or, when it is time, rehearses it. Gives x again where its launches are known
        now."""
        if known is None:
            now, x = _first_seen(part, x)
        elif known.left:
            now, x = known._replace(left=known.left - 1), _by_modules(part, x)
        else:
            # Parameters change for a while, which no other thread may see: not between parts, and not in backward.
            with self._lock:
                alone = sum(map(threading.Thread.is_alive, self._threads)) == 1
                now = known._replace(launches=_rehearse(part, x), left=None) if alone else known
            x = _by_modules(part, x) if now.launches is None else x
        if now is not None:
            self._keep(part.owner, kind, known, now)
        return now, x

    def _keep(self, owner: nn.Module, kind: _Kind, before: _Known | None, now: _Known) -> None:
        kinds = self._known.setdefault(owner, {})
        if before is None:
            kinds = self._known[owner] = dict(list(_held(kinds).items())[1 - MOST :])
        kinds[kind] = [now, *[known for known in kinds.get(kind, ()) if known is not before]]


def _held(kinds: dict[_Kind, list[_Known]]) -> dict[_Kind, list[_Known]]:
    """What modules still hold, whatever their flags: the rest would keep alive what they have let go."""
    held = {of: [known for known in several if known.watch.unchanged_but_for_flags()] for of, several in kinds.items()}
    return {of: several for of, several in held.items() if several}


def _kind_of(part: Part, row: Sequence[Piece], x: Tensor) -> _Kind | None:
    """What decides what the part launches on what the row makes of x; None where that is not for launches."""
    if row:
        shape, _, dtype = row[-1].rehearsed.y
        needs = bool(row[-1].rehearsed.wanted)
    elif _takes(x):
        shape, dtype, needs = x.shape, x.dtype, x.requires_grad
    else:
        return None
    weights, gain, of_weights, count = part.weights, part.gain, None, 1
    if len(shape) != 4 or (weights is not None and (type(weights) not in PLAIN or weights.device.type != "cpu")):
        return None
    if weights is not None:
        some = tuple([weight != 0 for weight in weights.tolist()])
        of_weights, count = (weights.dtype, some), max(1, sum(some))
    if shape.numel() * dtype.itemsize * count > LARGE:
        return None
    needs_both = needs, weights is not None and weights.requires_grad
    decides = gain.item() if gain is not None else None
    return _Kind(
        part.choice, part.owner.training, torch.is_grad_enabled(), needs_both, shape, dtype, of_weights,
        decides if decides in (0, 1) else None, torch.get_num_threads(),
    )  # fmt: skip


def _weights(part: Part) -> tuple[Tensor, ...]:
    return () if part.weights is None else (part.weights.contiguous(),)


def _by_modules(part: Part, x: Tensor) -> Tensor:
    return part.run(x) if part.weights is None else part.run(x, part.weights)


def _launched(row: Sequence[Piece], x: Tensor) -> Tensor:
    return launched(row, dense(x)) if row else x


def _first_seen(part: Part, x: Tensor) -> tuple[_Known | None, Tensor]:
    """Runs a part, and says what is known of it from now on: nothing where its modules cannot be watched."""
    modules = part.modules()
    # What stands in for parameters, as in torch.func.functional_call, comes and goes.
    if modules is None or not all(map(_has_parameters_of_its_own, modules)):
        return None, _by_modules(part, x)
    watch, y = Watch(modules), _by_modules(part, x)
    if not all(map(is_told, modules)):
        return _Known(watch), y
    if y is x:
        return _Known(watch, identity=True), y
    can_be_rehearsed = not _native.kernels_missing("cpu") and _can_be_changed(modules)
    return _Known(watch, left=RARE - 1 if can_be_rehearsed else None), y


def _rehearse(part: Part, x: Tensor) -> _OfPart | None:
    modules, weights = part.modules() or [], _weights(part)
    parameters, buffers = held(modules, "_parameters"), held(modules, "_buffers")
    found = rehearse(part.run, (x, *weights), parameters, buffers)
    if found is None:
        return None
    inputs = 1 + len(weights)
    of_inputs = [number for number in found.wanted if number < inputs]
    leaves = tuple([parameters[number - inputs] for number in found.wanted if number >= inputs])
    return _OfPart(found._replace(wanted=[*of_inputs, *range(inputs, inputs + len(leaves))]), leaves, buffers)


def _again(run: Callable[..., Tensor], buffers: Sequence[Tensor], x: Tensor, *weights: Tensor) -> Tensor:
    # A mode around backward is to see that alone.
    with as_it_was(buffers), _disable_current_modes():
        return run(x, *weights)


def _can_be_changed(modules: Sequence[nn.Module]) -> bool:
    """Whether tensors can be changed for a while: they are dense, and not of torch.inference_mode."""
    tensors = [*held(modules, "_parameters"), *held(modules, "_buffers")]
    return None not in orders(tensors) and True not in map(Tensor.is_inference, tensors)


def _has_parameters_of_its_own(module: nn.Module) -> bool:
    return all(type(parameter) in (nn.Parameter, NoneType) for parameter in module._parameters.values())


def replayable(x: Tensor) -> bool:
    """Says whether x is for kernels, and nobody follows the modules of a network, or the operators, one by one."""
    return (
        not torch.compiler.is_compiling()
        and _takes(x)
        and not (transformed() or followed() or torch._C._len_torch_function_stack())
        and not (autocasts(x) or saved_elsewhere() or registry.forced())
        and classes_are_theirs()
    )


def _takes(x: Tensor) -> bool:
    return type(x) in PLAIN and x.is_cpu and x.dim() == 4 and x.dtype in (torch.float32, torch.float64)
