"""The weights of `stage` as `separable` takes them, and their gradients as the parameters have them."""

from __future__ import annotations

from itertools import compress

import torch
from torch import Tensor

from asose_fast.ops.depthwise_plan import pack, pack_pointwise


def forward(
    depthwise: list[Tensor],
    pointwise: list[Tensor],
    mean: Tensor | None,
    rstd: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """params and pointwise of `separable`. The norms before, in the first B rows of tables, are its affine map."""
    affine: list[Tensor] = []
    if mean is not None and rstd is not None:
        mean, rstd = mean[: len(depthwise)], rstd[: len(depthwise)]
        scale = rstd if gamma is None else gamma * rstd
        shift = -mean * scale
        affine = [scale, shift if beta is None else beta + shift]
    return pack(depthwise, affine, len(depthwise), dtype), pack_pointwise(pointwise, dtype)


def backward(
    grad_params: Tensor,
    grad_matrices: Tensor,
    depthwise: list[Tensor],
    pointwise: list[Tensor],
    mean: Tensor | None,
    rstd: Tensor | None,
    gamma: Tensor | None,
    alive: Tensor | None,
    used: list[bool],
    need_depthwise: list[bool],
    need_pointwise: list[bool],
    has_sums: bool,
    pixels: int,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
    """The gradients of the weights that need one, S0 and S1 of the norms, and what the norms make of a gradient.

    With S0 = sum g, S1 = r (sum g z - mean S0), M `pixels` and the scale a of a norm, its input has the gradient

        dL/dz = g + slope (z - mean) + shift        slope = -a r S1 / M        shift = -a S0 / M

    whose coefficients are the rows 1, mean, slope and shift of the last result, (B, 4, C), as `separable` reads them.
    Sums count as 0 without `has_sums`, and S1 besides for branches that are not `used`: their statistics may not be
    finite. So may be the gradients of branches that are not `alive`, which are 0.
    """
    taps = [w.shape[2] * w.shape[3] for w in depthwise]
    pieces = (
        list(grad_params.split_with_sizes([*taps, *[len(used)] * (2 * (mean is not None))])) if len(grad_params) else []
    )
    grads_depthwise = [
        torch.empty_like(w).copy_(_only(alive, b, grad.t().reshape(w.shape)))
        for b, (w, grad) in enumerate(zip(depthwise, pieces, strict=False))
        if need_depthwise[b]
    ]
    grads_pointwise = [
        torch.empty_like(w).copy_(_only(alive, b, grad_matrices[b].reshape(w.shape)))
        for b, w in compress(enumerate(pointwise), need_pointwise)
    ]
    if mean is None or rstd is None:
        none = grad_params.new_empty(0, depthwise[0].shape[0], dtype=torch.float64)
        return grads_depthwise, grads_pointwise, none, none.clone(), grad_params.new_empty(0, 4, none.shape[1])
    mean, rstd = mean[: len(used)], rstd[: len(used)]
    s0 = s1 = torch.zeros_like(mean)
    if has_sums:
        of_z, s0 = (table.double() for table in pieces[-2:])
        s1 = _rows(rstd * (of_z - mean * s0), used)
    s0, s1 = (table if alive is None else torch.where(alive[:, None], table, 0) for table in (s0, s1))
    share = (rstd if gamma is None else gamma * rstd) / -pixels
    slope = share * rstd * s1
    shift = share * s0 - slope * (mean - mean.to(grad_params.dtype))
    tables = torch.stack([torch.ones_like(mean), mean, slope, shift], 1)
    if alive is not None:
        tables = torch.where(alive[:, None, None], tables, 0)
    return grads_depthwise, grads_pointwise, s0.clone(), s1.clone(), tables.to(grad_params.dtype)


def _only(alive: Tensor | None, branch: int, grad: Tensor) -> Tensor:
    """`grad`, or zeros where the branch is not alive, so that NaNs do not spread."""
    return grad if alive is None else torch.where(alive[branch], grad, 0)


def _rows(table: Tensor, kept: list[bool]) -> Tensor:
    """`table` with the rows that are not kept set to 0."""
    if all(kept):
        return table
    return torch.stack([row if keep else torch.zeros_like(row) for row, keep in zip(table, kept, strict=True)])
