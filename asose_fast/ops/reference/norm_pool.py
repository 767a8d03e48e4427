"""`norm_pool` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.layout import memory_format
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import mixed_norm_sum, norm_tables

DTYPES = FLOATS


def reference(z: Tensor, norm: Callable[[Tensor], Tensor], pool: int) -> Tensor:
    """What `norm_pool` computes, as PyTorch would."""
    y = norm(z)
    return y if pool == 1 else F.max_pool2d(y, pool, ceil_mode=True)


def out_shape(z: Tensor, pool: int) -> tuple[int, ...]:
    """(N, C, ceil(H / pool), ceil(W / pool))."""
    return pooled(z.shape, pool)


def pooled(shape: Sequence[int], pool: int) -> tuple[int, ...]:
    """The same of a shape."""
    return (*shape[:2], *((side + pool - 1) // pool for side in shape[2:]))


def forward(z: Tensor, norm: OneNorm, pool: int) -> tuple[Tensor, Tensor]:
    """y, and mean and rstd that the norm normalises by, (2, C) float64; as a backend."""
    tables = norm_tables.of_one(z, norm)
    y = _normalised(z, norm.gamma, norm.beta, tables)
    if pool > 1:
        y = F.max_pool2d(y, pool, ceil_mode=True).contiguous(memory_format=memory_format(z))
    return y, tables


def backward(
    grad: Tensor,
    z: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    tables: Tensor,
    of_batch: bool,
    pool: int,
    need_z: bool,
    need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of z, gamma and beta, empty where they are not needed; as a backend."""
    if pool > 1:
        y = _normalised(z, gamma, beta, tables)
        _, chosen = F.max_pool2d(y, pool, ceil_mode=True, return_indices=True)
        grad = torch.ops.aten.max_pool2d_with_indices_backward(
            grad, y, [pool, pool], [pool, pool], [0, 0], [1, 1], True, chosen
        )
    found, _, (s0, s1), _ = mixed_norm_sum.backward(
        grad, [z], tables.new_ones(1), _row(gamma), None, tables[:1], tables[1:], [of_batch], [True], [need_z], False,
        True, memory_format(z) == torch.channels_last,
    )  # fmt: skip
    none = grad.new_empty(0)
    return (
        found[0] if need_z else none.clone(),
        s1.to(gamma.dtype) if need_affine and gamma is not None else none.clone(),
        s0.to(beta.dtype) if need_affine and beta is not None else none.clone(),
    )


def _normalised(z: Tensor, gamma: Tensor | None, beta: Tensor | None, tables: Tensor) -> Tensor:
    return mixed_norm_sum.forward([z], tables.new_ones(1), _row(gamma), _row(beta), tables[:1], tables[1:])


def _row(table: Tensor | None) -> Tensor | None:
    return None if table is None else table[None]
