"""What a function launches, found out by rehearsals, is launched again without the function.

Between kernels the function finds out what to call and makes tensors, which takes longer than many a kernel and gives
the same every time. Two rehearsals on other values tell what is the same: an argument that differs must be an address,
the same number of bytes into the same stretch of memory. Launched again, it is given that place in the memory of then.
A third run is compared, to the bit, with what is launched again. So nothing is taken on trust: a function that computes
with anything else than kernels, or looks at values, is told by what differs, and runs as it is.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from asose_fast import _native
from asose_fast.ops.library import present
from asose_fast.ops.native import memory, mixed_sum
from asose_fast.ops.native.add_scaled import add_scaled
from asose_fast.ops.native.launches import Kernel, Log, noting
from asose_fast.ops.native.placing import Span, placed
from asose_fast.ops.native.rehearsed import FIXED, GRAD, INPUTS, KEPT, ROOM, Kind, Launch, Place, Rehearsed, Y, program

Function = Callable[..., Tensor]
NUMBER = -1
"""In place of a stretch of memory: what follows is a mere number."""


class NotFixedError(Exception):
    """The launches of a function are not the same every time."""


class _Rehearsal(NamedTuple):
    """A run of a function, and what it launched."""

    log: Log
    forward: int
    """How many of the launches are of the forward pass."""
    inputs: Sequence[Tensor]
    y: Tensor
    grad: Tensor
    gradients: Sequence[Tensor | None]
    """Of inputs and parameters; None where one is not wanted, or not there."""

    @property
    def tensors(self) -> list[Tensor]:
        """Those that are known from outside, in the order of the bases, without those of the node itself."""
        return [self.y, self.grad, *self.inputs, *present(self.gradients)]


def rehearse(
    function: Function, inputs: Sequence[Tensor], parameters: Sequence[Tensor], state: Sequence[Tensor]
) -> Rehearsed | None:
    """The launches of a function, or None where it has to run itself.

    Args:
        function: maps `inputs` to a tensor that is not one of them. Nothing but `state` and the state of torch's
            generator changes while it runs, and these are as before in the end.
        inputs: dense; the gradients of those are wanted that require them. Their values are not changed.
        parameters: what it reads besides and may change from call to call, in place; gradients likewise.
        state: what it writes besides, running statistics.
    """
    generator = torch.get_rng_state()
    try:
        with as_it_was(state):
            first = _rehearsal(function, inputs, parameters, 1.0)
        with as_it_was([*state, *parameters]):
            for tensor in (*parameters, *state):
                if tensor.is_floating_point():
                    tensor.data.mul_(1 + 2**-7)
            second = _rehearsal(function, inputs, parameters, 0.75)
        found = _found(first, second, parameters)
        del first, second
        with as_it_was(state):
            run = _rehearsal(function, inputs, parameters, 1.0)
            expected = _results(state, run.y, *present(run.gradients))
            del run
        with as_it_was(state):
            given = _results(state, *_by_launches(found, inputs))
        return found if expected == given else None
    except NotFixedError:
        return None
    finally:
        torch.set_rng_state(generator)
        # What steps took from malloc so far, launches take from the pool.
        _native.kernels("cpu").trim()


@contextlib.contextmanager
def as_it_was(tensors: Sequence[Tensor]) -> Iterator[None]:
    """A block after which tensors have the values from before. Autograd, which may have saved them, is not told."""
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, old in zip(tensors, before, strict=True):
            tensor.data.copy_(old)


def _copies(inputs: Sequence[Tensor], factor: float) -> list[Tensor]:
    return [(t.detach() * factor).requires_grad_(t.requires_grad) for t in inputs]


def _grad(y: Tensor) -> Tensor:
    """A gradient of y whose values differ."""
    values = torch.linspace(-1, 1, y.numel(), dtype=y.dtype)
    return torch.empty_strided(y.shape, y.stride(), dtype=y.dtype).copy_(values.view(y.shape))


def _rehearsal(function: Function, inputs: Sequence[Tensor], parameters: Sequence[Tensor], factor: float) -> _Rehearsal:
    given = _copies(inputs, factor)
    with noting() as log, _Adding():
        y = function(*given)
        forward, grad = len(log.calls), _grad(y.detach())
        known = [*given, *parameters]
        wanted = [t for t in known if t.requires_grad] if y.requires_grad else []
        found = iter(torch.autograd.grad(y, wanted, grad, allow_unused=True) if wanted else ())
    gradients = [next(found) if wanted and t.requires_grad else None for t in known]
    return _Rehearsal(log, forward, given, y.detach(), grad, gradients)


class _Adding(TorchDispatchMode):
    """Autograd, which adds up gradients, does so by kernels."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor) and not kwargs:
            a, b = args
            if isinstance(b, Tensor) and Kind.of(a) == Kind.of(b) and a.dtype in _ONE:
                if func is torch.ops.aten.add.Tensor:
                    return mixed_sum.forward([a, b], _ONE[a.dtype])
                add_scaled(a, b, _ONE[a.dtype][0])
                return a
        return func(*args, **(kwargs or {}))


_ONE = {dtype: torch.ones(2, dtype=dtype) for dtype in (torch.float32, torch.float64)}


def _by_launches(found: Rehearsed, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        y, kept = found.forward(inputs, poison=True)
        return [y, *(found.backward(_grad(y), inputs, y, kept, poison=True) if found.wanted else ())]


def _results(state: Sequence[Tensor], *found: Tensor) -> list[tuple[Kind, bytes]]:
    return [
        (Kind.of(t), t.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()) for t in (*found, *state)
    ]


def _found(first: _Rehearsal, second: _Rehearsal, parameters: Sequence[Tensor]) -> Rehearsed:
    """What both rehearsals have in common. Raises NotFixedError."""
    count = first.forward
    if (len(first.log.calls), count) != (len(second.log.calls), second.forward):
        raise NotFixedError
    if [g is None for g in first.gradients] != [g is None for g in second.gradients]:
        raise NotFixedError
    resolve = _Resolver(first.log, second.log)
    launches = [resolve.launch(a, b) for a, b in zip(first.log.calls, second.log.calls, strict=True)]
    bases = _bases(first, second)
    temporaries, kept, rooms = _temporaries(launches, count, bases, [of.size for of in first.log.memory.values()])
    bases.update(temporaries)

    def moved(place: Place) -> Place:
        base, start = (FIXED, 0) if place.base == NUMBER else bases[place.base]
        return Place(base, start + place.offset)

    there = [launch.moved(moved) for launch in launches]
    try:
        forward = program(there[:count], INPUTS + len(first.inputs))
        backward = program(there[count:], INPUTS + len(first.tensors) - 2)
    except ValueError as error:
        raise NotFixedError from error  # the forward pass writes a gradient
    gradients = list(map(Kind.of, present(first.gradients)))
    of_inputs = present(first.gradients[: len(first.inputs)])
    return Rehearsed(
        forward, backward, kept, rooms, Kind.of(first.y), gradients,
        [i for i, gradient in enumerate(first.gradients) if gradient is not None],
        memory.Tensors(gradients[len(of_inputs) :]),
        any(place.base == Y for launch in there[count:] for place in launch.all_places),
        [of.held for start, of in first.log.memory.items() if start in second.log.memory],
        _read(first, parameters),
    )  # fmt: skip


def _temporaries(
    launches: Sequence[Launch], count: int, bases: dict[int, Place], sizes: Sequence[int]
) -> tuple[dict[int, Place], int, tuple[int, int]]:
    """Where the stretches lie that are not known from outside, how many bytes are kept from the forward pass, which has
    `count` launches, and those of the workspaces of both."""
    used: dict[int, list[int]] = {}
    for number, launch in enumerate(launches):
        for stretch, _ in launch.all_places:
            if stretch != NUMBER and stretch not in bases:
                used.setdefault(stretch, []).append(number)
    spans = {stretch: Span(sizes[stretch], min(at), max(at)) for stretch, at in used.items()}
    # All that is kept is needed at once.
    kept = {of: span._replace(first=0, last=0) for of, span in spans.items() if span.first < count <= span.last}
    forward = {of: span for of, span in spans.items() if span.last < count}
    backward = {of: span for of, span in spans.items() if span.first >= count}
    found, ends = dict[int, Place](), list[int]()
    for base, group in ((KEPT, kept), (ROOM, forward), (ROOM, backward)):
        starts, end = placed(list(group.values()), memory.LINE)
        found.update({stretch: Place(base, start) for stretch, start in zip(group, starts, strict=True)})
        ends.append(end)
    return found, ends[0], (ends[1], ends[2])


def _read(run: _Rehearsal, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Parameters into which arguments of the backward pass point."""
    find = run.log.finder()
    arguments = itertools.chain(*[arguments for _, arguments in run.log.calls[run.forward :]])
    numbers = itertools.chain(*[one if isinstance(one, (list, tuple)) else [one] for one in arguments])
    places = [find(number) for number in numbers if type(number) is int]
    read = {place[0] for place in places if place is not None}
    return [parameter for parameter in parameters if run.log.stretch(parameter) in read]


def _bases(first: _Rehearsal, second: _Rehearsal) -> dict[int, Place]:
    """The bases of the stretches that are known from outside. Raises NotFixedError."""
    bases: dict[int, Place] = {}
    numbers = [Y, GRAD, *range(INPUTS, INPUTS + len(first.tensors) - 2)]
    for base, a, b in zip(numbers, first.tensors, second.tensors, strict=True):
        stretch = first.log.stretch(a)
        if stretch is None:
            if base == Y or base >= INPUTS + len(first.inputs):
                raise NotFixedError  # something else than a kernel made it
            continue
        dense = a.is_contiguous() or a.is_contiguous(memory_format=torch.channels_last)
        if stretch != second.log.stretch(b) or stretch in bases or a.storage_offset() or not dense:
            raise NotFixedError
        if Kind.of(a) != Kind.of(b):
            raise NotFixedError
        bases[stretch] = Place(base, 0)
    return bases


class _Resolver:
    """Finds out what arguments of two rehearsals are."""

    def __init__(self, first: Log, second: Log) -> None:
        self._finders = first.finder(), second.finder()

    def launch(self, a: tuple[Kernel, tuple[Any, ...]], b: tuple[Kernel, tuple[Any, ...]]) -> Launch:
        """A launch whose places are in numbered stretches, or, of mere numbers, in `NUMBER`."""
        if a[0] != b[0] or len(a[1]) != len(b[1]):
            raise NotFixedError
        places, lists = list[tuple[int, Place]](), list[tuple[int, list[Place]]]()
        for number, (one, other) in enumerate(zip(a[1], b[1], strict=True)):
            if _same(one, other):
                continue
            if isinstance(one, (list, tuple)) and len(one) == len(other):
                lists.append((number, list(map(self._place, one, other))))
            else:
                places.append((number, self._place(one, other)))
        return Launch(a[0], a[1], tuple(places), tuple(lists))

    def _place(self, one: Any, other: Any) -> Place:
        if _same(one, other) and isinstance(one, int):
            return Place(NUMBER, one)
        if type(one) is not int or type(other) is not int:
            raise NotFixedError
        place = self._finders[0](one)
        if place is None or place != self._finders[1](other):
            raise NotFixedError
        return Place(*place)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and (one == other or (one != one and other != other))
