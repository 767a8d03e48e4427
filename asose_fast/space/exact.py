"""Where a module computes what its type says, something else may compute it instead."""

from __future__ import annotations

from inspect import isfunction
from operator import attrgetter
from typing import TypeGuard, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as modules

from asose_fast.space.candidates import FactorizedReduce, Zero
from asose_fast.space.convolution import Conv2d
from asose_fast.space.global_average import GlobalAverage

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_SAME: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: Conv2d}
"""These subclasses of this package compute what their base does."""
_OF_INSTANCES = {
    "forward", "_call_impl", "_compiled_call_impl", "_wrapped_call_impl", "_conv_forward", "_check_input_dim",
}  # fmt: skip
"""A call of a module goes through these, and an instance may have its own. Adapters and offloading replace `forward`,
and `nn.Module.compile` sets `_compiled_call_impl`."""
_CALLED: dict[type[nn.Module], attrgetter[object]] = {
    nn.Module: attrgetter("_call_impl", "_wrapped_call_impl"),
    nn.AvgPool2d: attrgetter("__call__", "forward"),
    nn.BatchNorm2d: attrgetter("__call__", "forward", "_check_input_dim"),
    nn.Conv2d: attrgetter("__call__", "forward", "_conv_forward"),
    Conv2d: attrgetter("__call__", "forward", "_conv_forward"),
    nn.Flatten: attrgetter("__call__", "forward"),
    nn.Identity: attrgetter("__call__", "forward"),
    nn.Linear: attrgetter("__call__", "forward"),
    nn.MaxPool2d: attrgetter("__call__", "forward"),
    nn.ModuleDict: attrgetter("__call__", "values"),
    nn.ReLU: attrgetter("__call__", "forward"),
    nn.Sequential: attrgetter("__call__", "forward"),
    FactorizedReduce: attrgetter("__call__", "forward"),
    GlobalAverage: attrgetter("__call__", "forward"),
    Zero: attrgetter("__call__", "forward"),
}
"""A call also goes through these methods of the classes that are told."""


def told(kind: type[ModuleT]) -> type[ModuleT]:
    """Adds a class to those that are told, with all of its own methods."""
    _CALLED[kind] = attrgetter("__call__", *[name for name, of in vars(kind).items() if isfunction(of)])
    _METHODS.append(_CALLED[kind](kind))
    return kind


def _methods() -> list[object]:
    return [get(kind) for kind, get in _CALLED.items()]


_METHODS = _methods()


def computes(module: object, kind: type[ModuleT]) -> TypeGuard[ModuleT]:
    """Says whether a module does what its type says. It has no subclass, no parametrization, no hooks and no method of
    its own."""
    if type(module) is not kind and type(module) is not _SAME.get(kind):
        return False
    own = module.__dict__
    hooks = (
        own["_forward_hooks"] or own["_forward_pre_hooks"] or own["_backward_hooks"] or own["_backward_pre_hooks"]
    )  # a step asks this of every module: read one by one, they take half the time of a tuple and `any`
    return not hooks and own.keys().isdisjoint(_OF_INSTANCES)


def is_told(module: nn.Module) -> bool:
    """Says whether a module is of a class that is told here, and computes what that says."""
    kind = type(module)
    return kind in _CALLED and computes(module, kind)


def classes_are_theirs() -> bool:
    """Says whether the modules' classes are as they were, without hooks on all modules and without replaced methods.

    While torch.compile looks on, which cannot follow the question, they are taken to be.
    """
    if torch.compiler.is_compiling():
        return True
    hooked = (
        modules._global_forward_hooks
        or modules._global_forward_pre_hooks
        or modules._global_backward_hooks
        or modules._global_backward_pre_hooks
    )
    return not hooked and _methods() == _METHODS
