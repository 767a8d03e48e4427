"""`stage` on the compiled kernels (csrc/stage.h)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import all_dense, dense
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels, memory
from asose_fast.ops.native.channels import wide
from asose_fast.ops.native.multi_depthwise import DTYPES
from asose_fast.ops.native.strided_weights import known, known_dtype, strided
from asose_fast.ops.reference import stage as reference

__all__ = ["DTYPES", "backward", "forward"]


def forward(
    xs: list[Tensor],
    depthwise: list[Tensor],
    pointwise: list[Tensor],
    mean: Tensor | None,
    rstd: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    plan: DepthwisePlan,
    statistics: bool,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
    """The outputs of all branches, params and matrices, where wanted means and variances (else empty tensors), and no
    depthwise outputs."""
    x = xs[0]
    if x.numel() == 0:
        return reference.forward(xs, depthwise, pointwise, mean, rstd, gamma, beta, plan, statistics)
    kernels, threads = cpu_kernels()
    branches, channels, acc = len(depthwise), x.shape[1], accumulation_dtype(x.dtype)
    xs, shape = all_dense(xs), plan.out_shape(x)
    zs = [memory.empty(shape, x) for _ in depthwise]
    slices, row, size = _workspace(x.dtype, x.shape, plan)
    params = torch.empty(sum(plan.rows), channels, dtype=acc)
    matrices = torch.empty(branches, channels, channels, dtype=acc)
    of_batch = (branches, channels) if statistics else (0,)
    batch_mean, batch_var = (torch.empty(of_batch, dtype=torch.float64) for _ in range(2))
    held, (blocked, partials, scratch) = memory.workspace(
        branches * channels * row * acc.itemsize, slices * 2 * batch_mean.nbytes, threads * size
    )
    depthwise, pointwise = known(depthwise), known(pointwise)
    tables = [wide(t) for t in (mean, rstd, gamma, beta)]
    kernels.stage_forward(
        DTYPE_CODES[x.dtype], DTYPE_CODES[acc], x.shape, plan.dilations, plan.stride, plan.inputs,
        strided(depthwise), strided(pointwise), branches if plan.affine else 0,
        [address(t) for t in tables], [address(t) for t in (*xs, *zs)], address(params), address(matrices),
        blocked, partials, address(batch_mean), address(batch_var), scratch, threads,
    )  # fmt: skip
    del held
    return zs, params, matrices, batch_mean, batch_var, []


def backward(
    grads: list[Tensor | None],
    zs: list[Tensor | None],
    tables: Tensor,
    xs: list[Tensor],
    params: Tensor,
    matrices: Tensor,
    depthwise: list[Tensor],
    pointwise: list[Tensor],
    mean: Tensor | None,
    rstd: Tensor | None,
    gamma: Tensor | None,
    alive: Tensor | None,
    plan: DepthwisePlan,
    need_x: list[bool],
    need_depthwise: list[bool],
    need_pointwise: list[bool],
    need_sums: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
    """The gradients (and tables, `asose_fast.ops.reference.stage.backward`)."""
    x = xs[0]
    # The host, which sees the weights of branches on a CPU, leaves dead ones out itself.
    if alive is not None or x.numel() == 0:
        return reference.backward(
            grads, zs, tables, xs, params, matrices, depthwise, pointwise, mean, rstd, gamma, alive, plan, need_x,
            need_depthwise, need_pointwise, need_sums,
        )  # fmt: skip
    kernels, threads = cpu_kernels()
    branches, channels, acc = len(depthwise), x.shape[1], params.dtype
    xs, grads = all_dense(xs), [None if g is None else dense(g) for g in grads]
    zs = [None if z is None or g is None else dense(z) for z, g in zip(zs, grads, strict=True)]
    grad_xs = [memory.empty(x.shape, x) if need else None for need in need_x]
    slices, row, size = _workspace(x.dtype, x.shape, plan)
    of_depthwise, of_pointwise = any(need_depthwise), any(need_pointwise)
    of_params, blocks = (of_depthwise or need_sums) * params.nbytes, branches * channels * row * acc.itemsize
    # Partial sums and sums of both kinds of weights, blocked weights, and scratch.
    held, scratch = memory.workspace(
        slices * of_params, of_pointwise * slices * blocks, of_params, of_pointwise * blocks, blocks, threads * size
    )
    found = [
        [
            torch.empty_like(w, dtype=known_dtype(w.dtype)) if need else None
            for w, need in zip(weights, needs, strict=True)
        ]
        for weights, needs in ((depthwise, need_depthwise), (pointwise, need_pointwise))
    ]
    norms = branches if plan.affine else 0
    s0, s1 = (torch.empty(norms, channels, dtype=torch.float64) for _ in range(2))
    params, matrices, tables = params.contiguous(), matrices.contiguous(), tables.contiguous()
    replaced = torch.empty_like(tables) if plan.affine else tables.new_empty(0)
    norm_tables = [wide(mean), wide(rstd), wide(gamma), None]
    kernels.stage_backward(
        DTYPE_CODES[x.dtype], DTYPE_CODES[acc], x.shape, plan.dilations, plan.stride, plan.inputs,
        strided(depthwise, found[0]), strided(pointwise, found[1]), norms, [address(t) for t in norm_tables],
        [address(t) for t in (*xs, *grads, *zs, *grad_xs)], address(params), address(matrices), scratch[4],
        address(tables), of_depthwise, of_pointwise, need_sums, *scratch[:4], address(s0), address(s1),
        address(replaced), len(tables), scratch[5], threads,
    )  # fmt: skip
    del held
    of_weights = [
        [g.to(w.dtype) for w, g in zip(weights, of, strict=True) if g is not None]
        for weights, of in zip((depthwise, pointwise), found, strict=True)
    ]
    return [g for g in grad_xs if g is not None], of_weights[0], of_weights[1], s0, s1, replaced


@functools.lru_cache(maxsize=1024)
def _workspace(dtype: torch.dtype, shape: torch.Size, plan: DepthwisePlan) -> tuple[int, int, int]:
    """The number of slices of the partial sums, the length of a row of matrices, and the bytes of scratch a thread."""
    kernels, _ = cpu_kernels()
    found: tuple[int, int, int] = kernels.separable_plan(
        DTYPE_CODES[dtype], shape, plan.kernels, plan.dilations, plan.stride, plan.affine, plan.inputs
    )
    return found
