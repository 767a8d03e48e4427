"""`separable` on the compiled kernels (csrc/separable.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.layout import all_dense, dense
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels, memory
from asose_fast.ops.native.multi_depthwise import DTYPES

__all__ = ["DTYPES", "backward", "forward"]


def forward(
    xs: list[Tensor], params: Tensor, pointwise: Tensor, plan: DepthwisePlan, statistics: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The outputs of all branches and, where wanted, their means and variances (else empty tensors)."""
    kernels, threads = cpu_kernels()
    x, xs, params = xs[0], all_dense(xs), params.contiguous()
    zs = [memory.empty(plan.out_shape(x), x) for _ in plan.kernels]
    slices, row, scratch = _workspace(x, plan, threads)
    pointwise, blocked = pointwise.contiguous(), pointwise.new_empty(*pointwise.shape[:2], row)
    shape = (len(zs), x.shape[1]) if statistics else (0,)
    mean, var = (params.new_empty(shape, dtype=torch.float64) for _ in range(2))
    partials = mean.new_empty(slices, 2, *shape)
    if x.numel() == 0:
        return zs, mean.fill_(torch.nan), var.fill_(torch.nan)
    kernels.separable_forward(
        DTYPE_CODES[x.dtype], x.shape, plan.kernels, plan.dilations, plan.stride, plan.relu, plan.affine, plan.inputs,
        [address(t) for t in (*xs, *zs)], address(params), address(pointwise), address(blocked),
        address(partials), address(mean), address(var), address(scratch), threads,
    )  # fmt: skip
    return zs, mean, var


def backward(
    grads: list[Tensor | None],
    zs: list[Tensor | None],
    tables: Tensor,
    xs: list[Tensor],
    params: Tensor,
    pointwise: Tensor,
    plan: DepthwisePlan,
    need_x: list[bool],
    need_depthwise: bool,
    need_pointwise: bool,
    need_affine: bool,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The gradients of the inputs that need it, of params and of pointwise (else empty tensors)."""
    kernels, threads = cpu_kernels()
    x = xs[0]
    xs, grads = all_dense(xs), [None if g is None else dense(g) for g in grads]
    zs = [None if z is None or g is None else dense(z) for z, g in zip(zs, grads, strict=True)]
    grad_xs = [memory.empty(x.shape, x) if need else None for need in need_x]
    slices, row, scratch = _workspace(x, plan, threads)
    params, tables = params.contiguous(), tables.to(params.dtype).contiguous()
    pointwise, blocked = pointwise.contiguous(), pointwise.new_empty(*pointwise.shape[:2], row)
    partials = partials_pointwise = grad_params = grad_pointwise = None
    if need_depthwise or need_affine:
        partials = params.new_empty(slices, *params.shape)
        grad_params = torch.empty_like(params, memory_format=torch.contiguous_format)
    if need_pointwise:
        partials_pointwise = params.new_empty(slices, *pointwise.shape[:2], row)
        grad_pointwise = params.new_empty(*pointwise.shape[:2], row)
    kernels.separable_backward(
        DTYPE_CODES[x.dtype], x.shape, plan.kernels, plan.dilations, plan.stride, plan.relu, plan.affine, plan.inputs,
        [address(t) for t in (*xs, *grads, *zs, *grad_xs)], address(params), address(pointwise), address(blocked),
        address(tables), need_depthwise, need_pointwise, need_affine,
        address(partials), address(partials_pointwise), address(grad_params), address(grad_pointwise),
        address(scratch), threads,
    )  # fmt: skip
    return (
        [t for t in grad_xs if t is not None],
        params.new_empty(0) if grad_params is None else grad_params,
        params.new_empty(0) if grad_pointwise is None else grad_pointwise[:, :, : x.shape[1]].contiguous(),
    )


def _workspace(x: Tensor, plan: DepthwisePlan, threads: int) -> tuple[int, int, Tensor]:
    """The number of slices of the partial sums, the length of a row of pointwise, and scratch for all threads."""
    kernels, _ = cpu_kernels()
    slices, row, size = kernels.separable_plan(
        DTYPE_CODES[x.dtype], x.shape, plan.kernels, plan.dilations, plan.stride, plan.affine, plan.inputs
    )
    return slices, row, torch.empty(threads * size, dtype=torch.uint8, device=x.device)
