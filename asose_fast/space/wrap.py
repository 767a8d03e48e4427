"""A model of the user's own becomes a search space: its convolutions become choices between themselves and others."""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from asose_fast.space.cheaper import CHEAPER, is_convolution
from asose_fast.space.copying import deepcopy
from asose_fast.space.mixed import MixedOp, Plan
from asose_fast.space.trace import Calls, trace

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
ORIGINAL, IDENTITY = "original", "identity"
DEFAULT = (*CHEAPER, IDENTITY)
"""`wrap` offers these candidates beside the original, wherever they fit."""
Candidate = str | Callable[[Any], nn.Module | None]
"""One of `DEFAULT`, or a function that makes a module from the original one; None: there is none for it."""
Patterns = str | Sequence[str]
"""Names of modules, in which * stands for anything."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A module that becomes a choice."""

    kind: str
    """It is this, in words."""
    candidates: tuple[str, ...]
    """The names of its candidates. The first one is the module itself."""


@dataclasses.dataclass(frozen=True)
class Wrappable:
    """What `wrap` makes of a model; printed, it is a list."""

    places: dict[str, Place]
    """The modules that become choices, by their names in the model."""
    left: dict[str, str]
    """The other modules with kernels or matrices, and why each stays as it is."""
    parameters: int
    """The model has so many parameters."""
    flops: int
    """It takes so many FLOPs for one example (`asose_fast.space.cost.Cost`)."""

    def __str__(self) -> str:
        lines = [f"{len(self.places)} choices in {self.parameters:,} parameters and {self.flops:,} FLOPs an example"]
        lines += [f"  {name}: {place.kind}: {', '.join(place.candidates)}" for name, place in self.places.items()]
        lines += ["left as they are"] * bool(self.left)
        return "\n".join([*lines, *(f"  {name}: {why}" for name, why in self.left.items())])


def wrap(
    model: nn.Module,
    example: Any,
    *,
    candidates: Sequence[Candidate] = DEFAULT,
    only: Patterns | None = None,
    skip: Patterns = (),
    blocks: Patterns = (),
    original_logit: float = 1.0,
) -> nn.Module:
    """Returns a copy of the model in which a `MixedOp` stands in place of every convolution that can be chosen.

        space = asose_fast.wrap(model, (1, 3, 224, 224))
        found = asose_fast.search(space, (train, valid))

    The first candidate, `original`, is the convolution itself with its weights. On the path of the originals the copy
    computes what the model does, to the bit, and what is derived from that path is the model, with its names in the
    state_dict. The other candidates begin with the weights that come nearest to the original's:

    - `smaller`: the centre of the kernel, two taps fewer along each axis.
    - `separable`: a depthwise and a pointwise convolution, of rank 1 for each input channel.
    - `grouped`: 4 groups, or 2, the diagonal blocks of the weights.
    - `bottleneck`: a quarter of the output channels, then a pointwise convolution, of that rank.
    - `identity`: x itself, where input and output have one shape.

    A candidate is left out where it does not fit, or has no fewer parameters than the original. `wrappable` says what
    is wrapped, and why the rest is not.

    Args:
        model: called as model(x). It stays as it is.
        example: a batch of what the model takes, or the shape of one, on which a copy is run once.
        candidates: names of the above, and functions of your own: they are given the convolution, and return a new
            module or, where they have none for it, None. Their own names become those of the candidates.
        only: patterns of convolutions by name, "layer3.*" say, of any kernel; None: all with a kernel above 1.
        skip: patterns of those that stay as they are.
        blocks: patterns of modules of modules, as residual blocks. Where the output has the shape of the input, the
            choice is between the whole block and the identity, and nothing within it is wrapped.
        original_logit: the logits of the originals begin at this. The others are random, around 0 (`alpha_std`).

    Raises TypeError or ValueError for a model that cannot be wrapped, and for candidates or patterns that say nothing.
    """
    survey = _survey(model, example, candidates, only, skip, blocks)
    if not survey.places:
        first = "; ".join(f"{name}: {why}" for name, why in [*survey.left.items()][:3])
        raise ValueError(f"nothing of the model can be wrapped ({first or 'it has no convolution'})")
    for name, ops in survey.places.items():
        original, *others = ops.values()
        for op in others:
            op.train(original.training)
        survey.model.set_submodule(name, MixedOp(ops, logits={ORIGINAL: original_logit}))
    _require_calls(survey.model, example)
    return survey.model


def wrappable(
    model: nn.Module,
    example: Any,
    *,
    candidates: Sequence[Candidate] = DEFAULT,
    only: Patterns | None = None,
    skip: Patterns = (),
    blocks: Patterns = (),
) -> Wrappable:
    """Says what `wrap` does with the same arguments. Raises as that, but not where nothing can be wrapped."""
    survey = _survey(model, example, candidates, only, skip, blocks)
    places = {name: Place(_kind(ops[ORIGINAL]), tuple(ops)) for name, ops in survey.places.items()}
    return Wrappable(places, survey.left, _size(model), survey.flops)


def _named(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """Raises TypeError or ValueError for what makes no candidates."""
    if isinstance(candidates, str) or not isinstance(candidates, Sequence) or not candidates:
        raise TypeError(f"candidates must be a list of names and functions, got {candidates!r}")
    named: dict[str, Candidate] = {}
    for candidate in candidates:
        name = candidate if isinstance(candidate, str) else getattr(candidate, "__name__", "")
        if isinstance(candidate, str) and candidate not in DEFAULT:
            near = difflib.get_close_matches(candidate, DEFAULT, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(DEFAULT)}"
            raise ValueError(f"unknown candidate {candidate!r}: {hint}")
        if not callable(candidate) and not isinstance(candidate, str):
            raise TypeError(f"a candidate is a name or a function, got {type(candidate).__name__}")
        if not name.isidentifier():
            raise ValueError("a function that makes a candidate needs a name: write it with def")
        if name in (*named, ORIGINAL):
            raise ValueError(f"two candidates are called {name!r}")
        named[name] = candidate
    return named


def _wanted(model: nn.Module, **given: Patterns | None) -> Callable[[str, str], bool]:
    """Returns whether an argument names a module. Raises ValueError for a pattern that names none at all."""
    patterns = {key: [value] if isinstance(value, str) else list(value or ()) for key, value in given.items()}
    names = [name for name, _ in model.named_modules() if name]
    for argument, pattern in ((key, pattern) for key, those in patterns.items() for pattern in those):
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names[:5])} and so on"
            raise ValueError(f"{argument}: no module of the model has the name {pattern!r}: {hint}")
    return lambda argument, name: any(fnmatchcase(name, pattern) for pattern in patterns[argument])


class _Survey(NamedTuple):
    """What is found in a copy of a model."""

    model: nn.Module
    places: dict[str, dict[str, nn.Module]]
    """The candidates by place."""
    left: dict[str, str]
    flops: int


def _survey(
    model: nn.Module,
    example: Any,
    candidates: Sequence[Candidate],
    only: Patterns | None,
    skip: Patterns,
    blocks: Patterns,
) -> _Survey:
    """Raises as `wrappable`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a module, got {type(model).__name__}")
    if mixed := [name for name, module in model.named_modules() if isinstance(module, MixedOp)]:
        raise ValueError(f"the model has a mixed operation already, {mixed[0]!r}: wrap takes a model without any")
    wanted = _wanted(model, only=only, skip=skip, blocks=blocks)
    named, traced, copied = _named(candidates), trace(deepcopy(model), example), deepcopy(model)
    names = Counter(id(module) for _, module in copied.named_modules(remove_duplicate=False))
    holders = Counter(id(p) for module in copied.modules() for p in module.parameters(recurse=False))
    places: dict[str, dict[str, nn.Module]] = {}
    left: dict[str, str] = {}
    for name, module in copied.named_modules():
        block = wanted("blocks", name) and any(module.children())
        if not name or not (block or _multiplies(module)):
            continue
        calls = traced.calls[name]
        why = next((f"within {place}" for place in places if name.startswith(f"{place}.")), "")
        why = why or ("left out by skip" if wanted("skip", name) else "")
        why = why or _unlike_a_call(calls, names[id(module)])
        if not why and any(holders[id(p)] > 1 for p in module.parameters()):
            why = "it shares parameters with another module"
        ops: dict[str, nn.Module] = {}
        if not why and block:
            why = _unlike_identity(calls)
            ops = {ORIGINAL: module, IDENTITY: nn.Identity()}
        elif not why:
            why = _unlike_a_choice(module, None if only is None else wanted("only", name))
            ops = {} if why else dict(_candidates(name, module, calls, named))
            why = why or ("" if len(ops) > 1 else "no candidate fits")
        if why:
            left[name] = f"{_kind(module)}: {why}"
        else:
            places[name] = ops
    return _Survey(copied, places, left, traced.flops)


def _multiplies(module: nn.Module) -> bool:
    """Returns whether a module convolves, or has a matrix of its own."""
    return isinstance(module, _CONVOLUTIONS) or any(p.dim() > 1 for p in module.parameters(recurse=False))


def _unlike_a_call(calls: Calls, names: int) -> str:
    """Returns why nothing else could run where a module does, or nothing."""
    if names > 1:
        return f"it has {names} names in the model"
    if calls.count != 1:
        return f"it runs {calls.count} times" if calls.count else "it does not run"
    return "" if calls.plain else "it does not map one tensor to one tensor"


def _unlike_identity(calls: Calls) -> str:
    """Returns why x may not be the output of a module, or nothing."""
    if calls.given != calls.gave:
        return "its output has another shape than its input"
    return "its output is changed in place" if calls.changed else ""  # which would change what others read


def _unlike_a_choice(module: nn.Module, named: bool | None) -> str:
    """Returns why a module is not wrapped by itself, or nothing. `named`: whether `only` names it."""
    if not is_convolution(module):
        hooked = isinstance(module, _CONVOLUTIONS)
        return "it has hooks, or methods of its own" if hooked else "no convolution"
    if named is None:
        return "its kernel is 1" if max(module.kernel_size) == 1 else ""
    return "" if named else "left out by only"


def _candidates(
    name: str, conv: nn.Module, calls: Calls, candidates: dict[str, Candidate]
) -> Iterator[tuple[str, nn.Module]]:
    assert is_convolution(conv)
    yield ORIGINAL, conv
    for title, candidate in candidates.items():
        op: Any
        if candidate == IDENTITY:
            op = nn.Identity() if max(conv.stride) == 1 and not _unlike_identity(calls) else None
        elif isinstance(candidate, str):
            op = CHEAPER[candidate](conv)
            op = None if op is None or _size(op) >= _size(conv) else op
        else:
            op = candidate(conv)
        if op is conv or not isinstance(op, nn.Module | None):
            got = "the convolution itself" if op is conv else type(op).__name__
            raise TypeError(f"candidate {title} must return a new module or None for {name!r}, got {got}")
        if op is not None:
            yield title, op


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _kind(module: nn.Module) -> str:
    """Says in words what a module is."""
    if not isinstance(module, _CONVOLUTIONS):
        return type(module).__name__
    words = ["x".join(map(str, module.kernel_size)), f"{module.in_channels} -> {module.out_channels}"]
    words += [f"stride {max(module.stride)}"] if max(module.stride) > 1 else []
    return ", ".join([*words, *([f"{module.groups} groups"] if module.groups > 1 else [])])


def _require_calls(space: nn.Module, example: Any) -> None:
    """Raises ValueError where the model does something else with a wrapped module than to call it by its name."""
    checked = deepcopy(space)
    mixed = {name: module for name, module in checked.named_modules() if isinstance(module, MixedOp)}
    for op in mixed.values():
        op.plan = Plan(index=0)
    remedy = "leave out by skip what the model does not merely call"
    try:
        calls = trace(checked, example).calls
    except ValueError as error:
        raise ValueError(f"with mixed operations in it, {error}: {remedy}") from error
    if idle := [name for name in mixed if not calls[name].count]:
        raise ValueError(f"the model does not run the mixed operation in place of {idle[0]!r}: {remedy}")
