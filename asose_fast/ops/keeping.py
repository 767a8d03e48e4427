"""Whether backends keep the outputs of depthwise convolutions for the backward pass."""

from __future__ import annotations

from torch import Tensor

from asose_fast.ops import registry


def keeps(operator: str, x: Tensor, call: object) -> bool:
    """Whether the backend of an operator does so of a call: it says so by a function of this name, if it ever does."""
    of_backend = getattr(registry.select(operator, x), "keeps", None)
    return of_backend is not None and of_backend(call)
