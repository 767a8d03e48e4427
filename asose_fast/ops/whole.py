"""Operators over lists of tensors, whose kernels look at the tensors themselves: checks are for what they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autograd import transformed
from asose_fast.ops.dtypes import WIDE
from asose_fast.ops.library import observed


def whole(op: str, tensors: Sequence[Tensor], *arguments: Any) -> Any:
    """What `whole` of a backend gives: the operator's result, or what is false where it has done nothing, because it
    does not take all of the tensors. None where the backend has no `whole`, or somebody else follows the call.

    `tensors` are all of those among the arguments.
    """
    if transformed() or observed(tensors) or tensors[0].dtype not in WIDE:
        return None
    backend = registry.select(op, tensors[0])
    return backend.whole(*arguments) if hasattr(backend, "whole") else None
