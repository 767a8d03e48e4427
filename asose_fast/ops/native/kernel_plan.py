"""What native calls of a shape have in common."""

from __future__ import annotations

from typing import Any, NamedTuple


class KernelPlan(NamedTuple):
    """A plan of csrc/bindings, and what else is worth making once a shape."""

    kernels: Any
    """Its `forward` and `backward`."""
    shapes: tuple[tuple[int, ...], ...]
    """Those of the tensors that forward makes."""
    forward_bytes: int
    """Of the workspace; those of `backward_bytes` are for a backward pass."""
    backward_bytes: int = 0
