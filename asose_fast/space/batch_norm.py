"""Batch norms, and the pooling after them, on kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.norm_pool import norm_pool
from asose_fast.ops.tracing import tracing
from asose_fast.space.active import Part, on_kernels
from asose_fast.space.exact import classes_are_theirs, computes
from asose_fast.space.fit import Fit
from asose_fast.space.recognise import is_halving

LARGE = {1: 1 << 18, 2: 1 << 17}
"""Elements of a tensor from which on the kernels are faster, without pooling and with it."""


def normed(module: nn.Module, x: Tensor) -> Tensor:
    """Returns module(x). In a sequence of modules, batch norms of large tensors run as one operator with the 2x2 max
    pooling that may follow, where that computes the same."""
    followed = torch.compiler.is_compiling() or tracing()
    if followed or not classes_are_theirs() or not computes(module, nn.Sequential):
        y: Tensor = module(x)
        return y
    return in_order(on_kernels(list(module._modules.values())), x, Fit.of(x))


def in_order(parts: Sequence[Part], x: Tensor, fit: Fit) -> Tensor:
    """Runs the modules of a sequence one after the other, the norms among them as `normed` does. `fit` is that of the
    tensor that the sequence was given."""
    done = 0
    while done < len(parts):
        part, *rest = parts[done:]
        pool = 2 if rest and is_halving(rest[0]) else 1
        if computes(part, nn.BatchNorm2d) and _runs_on_kernels(part, x, pool, fit):
            x = norm_pool(x, part, pool, checked=True)
            done += pool
        else:
            x = part(x)
            done += 1
    return x


def _runs_on_kernels(norm: nn.BatchNorm2d, x: Tensor, pool: int, fit: Fit) -> bool:
    return (
        x.numel() >= LARGE[pool]
        and fit.takes(x)
        and fit.norm(norm, x.shape[1])
        and registry.has_kernels("norm_pool", x.device.type, x.dtype)
    )
