"""What a sequence of modules is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

Part = Callable[[Tensor], Tensor]
Found = tuple[Part, int]
"""This part stands for so many of the first modules of a sequence."""
Finder = Callable[[Sequence[Part]], Found | None]
"""Finds it, if it is there."""


def in_turn(parts: Sequence[Part], x: Tensor) -> Tensor:
    """Runs them one after the other."""
    for part in parts:
        x = part(x)
    return x
