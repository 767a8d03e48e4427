"""What the modules of a model do with an example."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from asose_fast.space.cost import counting


@dataclasses.dataclass
class Calls:
    """How a module was called in one forward pass."""

    count: int = 0
    plain: bool = True
    """Whether it was given one tensor, and gave one."""
    given: tuple[int, ...] = ()
    """The shape of the tensor that it was given last."""
    gave: tuple[int, ...] = ()
    """The shape of the one that it gave."""
    changed: bool = False
    """Whether that was changed in place later on."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """A forward pass of a model."""

    calls: dict[str, Calls]
    """The calls of all modules, by the first name that they have in the model."""
    flops: int
    """It took so many FLOPs for each example, as `Cost.flops`."""


@torch.no_grad()
def trace(model: nn.Module, example: Any) -> Trace:
    """Runs the model in evaluation mode, and leaves it so, with hooks: give a copy. Random numbers do not change.

    Args:
        model: whose parameters have values.
        example: a batch of what the model takes, or the shape of one.

    Raises ValueError for a model whose parameters have no shapes yet, and where it cannot run on the example.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"{name} of the model has no shape yet: run its lazy modules on a batch first")
    x = _batch(model, example)
    calls = {name: Calls() for name, _ in model.named_modules()}
    outputs: list[tuple[Calls, Tensor, int]] = []
    for name, module in model.named_modules():

        def note(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], y: Any, seen: Calls = calls[name]) -> None:
            seen.count += 1
            if len(args) == 1 and not named and isinstance(args[0], Tensor) and isinstance(y, Tensor):
                seen.given, seen.gave = tuple(args[0].shape), tuple(y.shape)
                outputs.append((seen, y, y._version))
            else:
                seen.plain = False

        module.register_forward_hook(note, with_kwargs=True)
    with torch.random.fork_rng(), counting() as counter:
        try:
            model.eval()(x)
        except Exception as error:
            shapes = ", ".join(str(tuple(t.shape)) for t in pytree.tree_leaves(x) if isinstance(t, Tensor))
            raise ValueError(f"the model cannot run on the example ({shapes or type(x).__name__}): {error}") from error
    for seen, y, version in outputs:
        seen.changed |= y._version != version
    examples = next((len(t) for t in pytree.tree_leaves(x) if isinstance(t, Tensor) and t.dim()), 1)
    return Trace(calls, counter.get_total_flops() // max(1, examples))


def _batch(model: nn.Module, example: Any) -> Any:
    """Returns a batch of zeros for a shape, as exact as the model's parameters and where they are, or the example."""
    if not (isinstance(example, Sequence) and example and all(type(size) is int for size in example)):
        return example
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    return torch.zeros(tuple(example), dtype=like.dtype, device=like.device)
