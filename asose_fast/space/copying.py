"""This module copies modules and states that hold results of a computation, which `copy.deepcopy` refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor
from torch.overrides import TorchFunctionMode

Value = TypeVar("Value")


class _Detaching(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is not Tensor.__deepcopy__ or args[0].is_leaf:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        return memo.setdefault(id(tensor), tensor.detach().clone())


def deepcopy(value: Value, memo: dict[int, Any] | None = None) -> Value:
    """Copies as `copy.deepcopy` does, but a tensor that is the result of a computation becomes its value, without the
    graph.

    A module has such tensors where it keeps its last activation, and where old-style weight_norm or pruning computes
    its weight before each call.
    """
    with _Detaching():
        return copy.deepcopy(value, memo)
