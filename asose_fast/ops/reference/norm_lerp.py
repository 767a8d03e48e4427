"""`norm_lerp` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import memory_format
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import mixed_norm_sum, norm_tables

DTYPES = FLOATS


def reference(z: Tensor, norm: Callable[[Tensor], Tensor], shortcut: Tensor, gain: Tensor) -> Tensor:
    """What `norm_lerp` computes, as PyTorch would."""
    return torch.lerp(shortcut, norm(z), gain.to(shortcut.dtype))


def forward(z: Tensor, shortcut: Tensor, gain: Tensor, norm: OneNorm) -> tuple[Tensor, Tensor]:
    """y, and mean and rstd that the norm normalises by, (2, C) float64; as a backend."""
    tables = norm_tables.of_one(z, norm)
    y = mixed_norm_sum.forward(
        [z, shortcut], _shares(gain, z), _row(norm.gamma), _row(norm.beta), tables[:1], tables[1:]
    )
    return y, tables


def backward(
    grad: Tensor,
    z: Tensor,
    shortcut: Tensor,
    gain: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    tables: Tensor,
    of_batch: bool,
    need_z: bool,
    need_shortcut: bool,
    need_gain: bool,
    need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of z, shortcut, gain, gamma and beta, empty where they are not needed; as a backend."""
    grads, _, sums, _ = mixed_norm_sum.backward(
        grad, [z, shortcut], _shares(gain, z), _row(gamma), None, tables[:1], tables[1:], [of_batch], [True, True],
        [need_z, need_shortcut], False, True, memory_format(z) == torch.channels_last,
    )  # fmt: skip
    found, (s0, s1, of_shortcut), none = iter(grads), sums, grad.new_empty(0)
    of_branch = (s1 if gamma is None else gamma * s1) + (0 if beta is None else beta * s0)
    return (
        next(found) if need_z else none.clone(),
        next(found) if need_shortcut else none.clone(),
        (of_branch - of_shortcut).sum().to(gain.dtype) if need_gain else gain.new_empty(0),
        torch.where(gain == 0, 0, gain * s1).to(gamma.dtype) if need_affine and gamma is not None else none.clone(),
        (gain * s0).to(beta.dtype) if need_affine and beta is not None else none.clone(),
    )


def _shares(gain: Tensor, z: Tensor) -> Tensor:
    gain = gain.to(accumulation_dtype(z.dtype))
    return torch.stack([gain, 1 - gain])


def _row(table: Tensor | None) -> Tensor | None:
    return None if table is None else table[None]
