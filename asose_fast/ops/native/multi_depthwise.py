"""`multi_depthwise` on the compiled kernels (csrc/multi_depthwise.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.layout import all_dense, dense
from asose_fast.ops.native import DTYPE_CODES, address, kernels_of, memory

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(xs: list[Tensor], params: Tensor, plan: DepthwisePlan, into: list[Tensor] | None = None) -> list[Tensor]:
    """The outputs of all branches, in the channels_last tensors `into` or in new ones."""
    kernels, execution = kernels_of(xs[0].device)
    x, xs, params = xs[0], all_dense(xs), params.contiguous()
    ys = [memory.empty(plan.out_shape(x), x) for _ in plan.kernels] if into is None else into
    _, scratch = _workspace(x, plan, execution if x.is_cpu else 0)
    kernels.multi_depthwise_forward(
        DTYPE_CODES[x.dtype], x.shape, plan.kernels, plan.dilations, plan.stride, plan.relu, plan.affine, plan.inputs,
        [address(t) for t in (*xs, *ys)], address(params), address(scratch), execution,
    )  # fmt: skip
    return ys


def backward(
    grads: list[Tensor | None],
    xs: list[Tensor],
    params: Tensor,
    plan: DepthwisePlan,
    need_x: list[bool],
    need_weights: bool,
    need_affine: bool,
) -> tuple[list[Tensor], Tensor]:
    """The gradients of the inputs that need it, and of params (else an empty tensor)."""
    grad_params = None
    if need_weights or need_affine:
        grad_params = torch.empty_like(params, memory_format=torch.contiguous_format)
    grad_xs, _ = run_backward(grads, xs, params, plan, need_x, need_weights, need_affine, grad_params)
    return grad_xs, params.new_empty(0) if grad_params is None else grad_params


def run_backward(
    grads: list[Tensor | None],
    xs: list[Tensor],
    params: Tensor,
    plan: DepthwisePlan,
    need_x: list[bool],
    need_weights: bool,
    need_affine: bool,
    grad_params: Tensor | None,
) -> tuple[list[Tensor], Tensor]:
    """The gradients of the inputs that need it, and the partial sums (slices, rows, C) of that of params.

    Their sum is put into `grad_params`, without which CUDA leaves them to be added up. They are empty where nothing of
    params is needed.
    """
    kernels, execution = kernels_of(xs[0].device)
    x, params = xs[0], params.contiguous()
    xs, grads = all_dense(xs), [None if g is None else dense(g) for g in grads]
    grad_xs = [memory.empty(x.shape, x) if need else None for need in need_x]
    slices, scratch = _workspace(x, plan, execution if x.is_cpu else 0)
    partials = params.new_empty(slices, *params.shape) if need_weights or need_affine else None
    kernels.multi_depthwise_backward(
        DTYPE_CODES[x.dtype], x.shape, plan.kernels, plan.dilations, plan.stride, plan.relu, plan.affine, plan.inputs,
        [address(t) for t in (*xs, *grads, *grad_xs)], address(params), need_weights, need_affine,
        address(partials), address(grad_params), address(scratch), execution,
    )  # fmt: skip
    return [t for t in grad_xs if t is not None], params.new_empty(0) if partials is None else partials


def _workspace(x: Tensor, plan: DepthwisePlan, threads: int) -> tuple[int, Tensor]:
    """The number of slices of the partial sums, and scratch memory for so many threads: on CUDA it is for none."""
    kernels, _ = kernels_of(x.device)
    slices, size = kernels.multi_depthwise_plan(
        DTYPE_CODES[x.dtype], x.shape, plan.kernels, plan.dilations, plan.stride, plan.affine, plan.inputs
    )
    return slices, torch.empty(threads * size, dtype=torch.uint8, device=x.device)
