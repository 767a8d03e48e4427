"""`norm_relu_mean` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.layout import memory_format
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import norm_tables

DTYPES = FLOATS


def reference(x: Tensor, norm: Callable[[Tensor], Tensor] | None) -> Tensor:
    """What `norm_relu_mean` computes, as PyTorch would."""
    return (x if norm is None else norm(x)).relu().mean((2, 3))


def forward(x: Tensor, norm: OneNorm) -> tuple[Tensor, Tensor, Tensor]:
    """y; mean and rstd that the norm normalises by, (2, C) float64; and how many pixels the ReLU lets through with the
    sum of x - mean over these, (2, N, C) float64; as a backend."""
    if norm.of_batch or norm.running_mean is not None:
        tables = norm_tables.of_one(x, norm)
    else:
        tables = torch.tensor([[0.0], [1.0]], dtype=torch.float64, device=x.device).repeat(1, x.shape[1])
    distance, normal = _normalised(x, norm.gamma, norm.beta, tables)
    active = torch.stack([(normal > 0) | normal.isnan(), torch.where(normal <= 0, 0, distance)]).sum((3, 4))
    return normal.relu().mean((2, 3)).to(x.dtype), tables, active


def backward(
    grad: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    tables: Tensor,
    active: Tensor,
    of_batch: bool,
    need_x: bool,
    need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, gamma and beta, empty where they are not needed; as a backend."""
    pixels, rstd = x.shape[2] * x.shape[3], tables[1]
    of_pixel, (count, distances) = grad.double() / pixels, active
    of_pixel = torch.where(count == 0, 0, of_pixel)
    s0, s1 = (of_pixel * count).sum(0), (of_pixel * distances).sum(0) * rstd
    none = grad.new_empty(0)
    grad_x = none.clone()
    if need_x:
        distance, normal = _normalised(x, gamma, beta, tables)
        scale = (rstd if gamma is None else rstd * gamma)[:, None, None]
        wide = torch.where(normal <= 0, 0, scale * of_pixel[:, :, None, None])
        if of_batch:
            values = x.numel() // x.shape[1]
            wide = wide - scale / values * (s0[:, None, None] + distance * (rstd * s1)[:, None, None])
        grad_x = wide.to(x.dtype).contiguous(memory_format=memory_format(x))
    return (
        grad_x,
        s1.to(gamma.dtype) if need_affine and gamma is not None else none.clone(),
        s0.to(beta.dtype) if need_affine and beta is not None else none.clone(),
    )


def _normalised(x: Tensor, gamma: Tensor | None, beta: Tensor | None, tables: Tensor) -> tuple[Tensor, Tensor]:
    """x - mean and BN(x) in float64."""
    mean, rstd = tables[:, :, None, None]
    distance = x.double() - mean
    normal = distance * (rstd if gamma is None else rstd * gamma[:, None, None])
    return distance, normal if beta is None else normal + beta[:, None, None]
