"""Right arguments for every registered operator, which are private, and hostile changes of them."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops import registry
from tests.ops import cases
from tests.ops.cases import Images

OPERATORS = torch.ops.asose_fast


def right_calls(
    dtype: torch.dtype = torch.float32, shape: tuple[int, int, int, int] = Images().shape
) -> dict[str, dict[str, object]]:
    """Arguments by name of the operators, which they take, for images of a shape."""
    calls: dict[str, dict[str, object]] = {}
    for module in cases.modules():
        calls |= module.raw_calls(Images(dtype, shape)) if hasattr(module, "raw_calls") else {}
    return calls


def call(name: str, arguments: dict[str, object]) -> object:
    """Runs an operator through the dispatcher."""
    return getattr(OPERATORS, name)(*arguments.values())


def operators_of(backend: str) -> list[tuple[str, str]]:
    """The registered operators, and in the terms of the registry, of those that have the backend."""
    names = [(name, name.removesuffix("_fwd").removesuffix("_bwd")) for name in right_calls()]
    return [(name, op) for name, op in names if backend in registry.backends(op)]


def tensors(result: object) -> list[Tensor]:
    """All tensors of a result, in their order."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in tensors(part)] if isinstance(result, (list, tuple)) else []


def freed(x: Tensor) -> Tensor:
    """Like x, but its storage was given back."""
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def cut_short(x: Tensor) -> Tensor:
    """Like x, but its storage ends before its last element."""
    x = x.clone()
    x.untyped_storage().resize_(max(x.untyped_storage().nbytes() - x.element_size(), 0))
    return x


def other_tensors(x: Tensor) -> list[Tensor]:
    """What no operator takes in the place of x."""
    long = torch.cat([x, x[:1]]) if x.dim() else x[None]
    return [
        x.flatten()[:-1],
        long,
        x[..., None],
        x.to(torch.int8),
        x.to(torch.complex64),
        x.to("meta"),
        x.to_sparse(),
        freed(x),
        cut_short(x),
    ]


def hostile(arguments: dict[str, object]) -> list[tuple[str, dict[str, object]]]:
    """The arguments with one of them, which is named, replaced by what few operators take in its place."""
    found: list[tuple[str, dict[str, object]]] = []
    for name, value in arguments.items():
        others: list[object] = []
        if isinstance(value, Tensor):
            others = list(other_tensors(value))
        elif isinstance(value, list):
            others = [value[:-1], value + value[:1], value * 70, []]
            for i, item in enumerate(value):
                if isinstance(item, Tensor):
                    others += [[*value[:i], other, *value[i + 1 :]] for other in other_tensors(item)]
            if name in ("kernels", "dilations"):
                others += [[bad] * len(value) for bad in (0, -1, -(2**62), 2**62)]
        elif name in ("stride", "inputs"):
            others = [0, -1, 3, 2**31, 2**62, -(2**62)]
        found += [(name, arguments | {name: other}) for other in others]
    return found
