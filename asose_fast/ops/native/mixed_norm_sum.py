"""`mixed_norm_sum` on the compiled kernels (csrc/mixed_norm_sum.h)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from asose_fast.ops.mixed_sum import accumulation_dtype, memory_format
from asose_fast.ops.native import DTYPE_CODES, address, memory, module_and_context
from asose_fast.ops.native.channels import channel_space

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


class _Tables(NamedTuple):
    """w_k gamma_kc r_kc (z - mean_kc) = scale (z - center) - scale * rest, for every input."""

    scale: Tensor
    """(K + J, C) float64; v_j for the plain inputs."""
    center: Tensor
    """(K + J, C): the mean as the kernels' arithmetic can hold it; 0 for the plain inputs."""
    rest: Tensor
    """(K, C) float64: mean - center, small, but not beside the standard deviation where the mean is large."""


def _tables(weights: Tensor, gamma: Tensor | None, mean: Tensor, rstd: Tensor, dtype: torch.dtype) -> _Tables:
    branches, channels = mean.shape
    wide = weights.double()[:, None]
    scale = wide[:branches] * rstd
    if gamma is not None:
        scale = scale * gamma
    scale = scale.masked_fill(wide[:branches] == 0, 0)
    plain = wide[branches:].expand(-1, channels)
    center = mean.to(dtype)
    return _Tables(torch.cat([scale, plain]), F.pad(center, (0, 0, 0, len(plain))), mean - center)


def forward(
    xs: list[Tensor], weights: Tensor, gamma: Tensor | None, beta: Tensor | None, mean: Tensor, rstd: Tensor
) -> Tensor:
    """y = sum_k w_k BN_k(z_k) + sum_j v_j x_j."""
    module, context = module_and_context(xs[0].device)
    format, acc = memory_format(xs[0]), accumulation_dtype(xs[0].dtype)
    dense = [x.contiguous(memory_format=format) for x in xs]
    y = memory.empty(xs[0].shape, xs[0], format)
    tables = _tables(weights, gamma, mean, rstd, acc)
    w = weights[: len(mean), None]
    shifts = -tables.scale[: len(mean)] * tables.rest
    if beta is not None:
        shifts = shifts + w * beta
    shift = shifts.masked_fill(w == 0, 0).sum(0).to(acc)
    scale, weights = tables.scale.to(acc), weights.contiguous()
    module.mixed_norm_sum_forward(
        DTYPE_CODES[y.dtype], len(xs), *channel_space(y, format), [t.data_ptr() for t in (*dense, y)],
        address(weights), address(scale), address(tables.center), address(shift), context,
    )  # fmt: skip
    return y


def backward(
    grad: Tensor,
    xs: list[Tensor],
    weights: Tensor,
    gamma: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    batch: list[bool],
    read: list[bool],
    need_x: list[bool],
    need_sums: bool,
    channels_last: bool,
) -> tuple[list[Tensor], Tensor]:
    """Gradients of the xs that need one, and the sums per channel (`asose_fast.ops.mixed_norm_sum.backward`)."""
    module, context = module_and_context(grad.device)
    format = torch.channels_last if channels_last else torch.contiguous_format
    acc = accumulation_dtype(grad.dtype)
    grad = grad.contiguous(memory_format=format)
    saved = iter([x.contiguous(memory_format=format) for x in xs])
    inputs = [next(saved) if is_read else None for is_read in read]
    code, space = DTYPE_CODES[grad.dtype], channel_space(grad, format)
    branches, channels = mean.shape
    tables = _tables(weights, gamma, mean, rstd, acc)

    sums = torch.empty(1 + len(read) if need_sums else 0, channels, dtype=torch.float64)
    slope = shift = None
    if need_sums:
        partials = torch.empty(module.lane_groups(*space), *sums.shape, dtype=torch.float64)
        module.mixed_norm_sum_reduce(
            code, len(read), *space, [address(t) for t in (*inputs, grad)],
            address(tables.center), address(partials), address(sums), context,
        )  # fmt: skip
        s0, s1 = sums[0], sums[1 : 1 + branches]
        s1.sub_(tables.rest * s0).mul_(rstd)
        share = tables.scale[:branches] / (space[0] * space[2])
        slope = -share * rstd * s1
        shift = (-share * s0 - slope * tables.rest).to(acc)
        slope = slope.to(acc)

    grad_xs = [memory.empty(grad.shape, grad, format) if need else None for need in need_x]
    if any(need_x):
        # With running statistics a branch is affine: its gradient does not read its input.
        curved = [x if k < branches and batch[k] else None for k, x in enumerate(inputs)]
        scale, weights = tables.scale.to(acc), weights.contiguous()
        module.mixed_norm_sum_backward(
            code, len(read), *space, [address(t) for t in (*curved, grad, *grad_xs)],
            address(weights), address(scale), address(tables.center), address(slope), address(shift), context,
        )  # fmt: skip
    return [t for t in grad_xs if t is not None], sums
