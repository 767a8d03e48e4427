"""Whether modules are as they were when something was found out about them."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable, Sequence
from operator import attrgetter, is_
from typing import Any

from torch import Tensor, nn

from asose_fast import _native
from asose_fast.ops.native.whereabouts import whereabouts


class Watch:
    """Says whether modules are as they were: their attributes, hooks, and the tensors and modules that they hold.

    Whether tensors want gradients is part of that.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._modules = list(map(weakref.ref, modules))
        self._types = list(map(type, modules))
        self._dicts: list[dict[Any, Any]] = [
            of
            for module in modules
            for of in (
                module.__dict__, module._parameters, module._buffers, module._modules, module._forward_hooks,
                module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks,
            )
        ]  # fmt: skip
        self._lengths, self._values = list(map(len, self._dicts)), list(self._now())
        self._tensors = [value for value in self._values if isinstance(value, Tensor)]
        self._needs, self._whereabouts = list(map(_needs, self._tensors)), whereabouts(self._tensors)

    def unchanged(self) -> bool:
        """Says whether nothing that was there has been replaced, and nothing added."""
        return (
            list(map(_needs, self._tensors)) == self._needs
            and [type(module()) for module in self._modules] == self._types
            and self._holds()
            and whereabouts(self._tensors) == self._whereabouts
        )

    def unchanged_but_for_flags(self) -> bool:
        """Says whether modules still hold what they held."""
        now = zip(self._now(), self._values, strict=False)
        return list(map(len, self._dicts)) == self._lengths and all(a is b or type(a) is bool for a, b in now)

    def _holds(self) -> bool:
        if not _native.kernels_missing("cpu"):
            held: bool = _native.kernels("cpu").holds(self._dicts, self._lengths, self._values)
            return held
        return list(map(len, self._dicts)) == self._lengths and all(map(is_, self._now(), self._values))

    def _now(self) -> Iterable[Any]:
        return itertools.chain.from_iterable(map(dict.values, self._dicts))


_needs = attrgetter("requires_grad")
