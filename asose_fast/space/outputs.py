"""How a candidate is run, and what its output must be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn


def run(
    op: nn.Module | Sequence[Callable[[Tensor], Tensor]], x: Tensor, *, tracked: bool, name: str = "of no name"
) -> Tensor:
    """Returns the output of a candidate, or of its parts one after the other, outside autograd where it is not
    `tracked`.

    Raises ValueError where it is no tensor, or x is changed on the way.
    """
    y, before = x, _version(x)
    with torch.set_grad_enabled(tracked and torch.is_grad_enabled()):
        for part in [op] if isinstance(op, nn.Module) else op:
            y = part(y)
    if not isinstance(y, Tensor):
        raise ValueError(f"candidate {name} returned a {type(y).__name__}; a candidate must return one tensor")
    if _version(x) != before:
        raise ValueError(f"candidate {name} changes its input in place, which the other candidates read too")
    return y if tracked or not y.requires_grad else y.detach()  # skip_connect gives x itself, gradient and all


def _version(x: Tensor) -> int:
    """Returns a number that grows with every change in place, where that is counted."""
    return 0 if torch.compiler.is_compiling() or x.is_inference() else x._version


def require_alike(outputs: Iterable[tuple[str, Tensor]], shape: torch.Size | None = None) -> torch.Size | None:
    """Returns the common shape of the outputs. Raises ValueError for the first one that has not `shape`, which is that
    of the first output where it is None. The message names the candidate."""
    first = "the others" if shape is not None else ""
    for name, y in outputs:
        if shape is None:
            first, shape = f"candidate {name}", y.shape
        elif y.shape != shape:
            raise ValueError(
                f"candidate {name} returned the shape {tuple(y.shape)}, {first} {tuple(shape)}; all candidates of a "
                "mixed operation must return one shape"
            )
    return shape


def require_shortcut(shortcut: Tensor, shape: torch.Size | None) -> None:
    """Raises ValueError where the shortcut is not of `shape`, that of the candidates' outputs."""
    if shape is not None and shortcut.shape != shape:
        raise ValueError(
            f"mixed operation: shortcut must have the shape of the candidates' outputs, {tuple(shape)}, "
            f"got {tuple(shortcut.shape)}"
        )


def blend(y: Tensor, gain: Tensor, shortcut: Tensor) -> Tensor:
    """Returns s + g * (y - s) in the dtype of the shortcut. Raises ValueError where that is not of the shape of y."""
    require_shortcut(shortcut, y.shape)
    return torch.lerp(shortcut, y.to(shortcut.dtype), gain.to(shortcut.dtype))
