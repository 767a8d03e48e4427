"""Depthwise convolutions of batch-normalised, rectified tensors, without the normalised tensors ever being made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asose_fast.ops.multi_depthwise import Plan, accumulation_dtype, pack
from asose_fast.ops.norms import affine_parameters, normalisation


def norm_depthwise(
    zs: Sequence[Tensor], norms: Sequence[nn.BatchNorm2d], weights: Sequence[Tensor], *, dilations: Sequence[int]
) -> tuple[Tensor, ...]:
    """y_b = conv2d(relu(BN_b(z_b)), weights_b, padding=d_b (k_b - 1) / 2, dilation=d_b, groups=C) for B branches.

    `multi_depthwise` loads z through the affine map that a norm is once its statistics are known, and gives the two
    sums that a norm's backward needs: with g_u the gradient of u = BN(z), xhat = r (z - mean), S0 = sum g_u,
    S1 = sum g_u xhat and M = N H W (Ioffe and Szegedy, 2015),

    dL/dz = gamma r g_u - gamma r (S0 + xhat S1) / M, or gamma r g_u with running statistics
    dgamma = S1        dbeta = S0

    What is added to gamma r g_u has the form of a batch norm of z, so that `mixed_norm_sum`'s forward adds it in one
    pass. S1 is a difference of float32 sums: it loses digits where |mean| is far larger than the deviation. Nothing but
    zs is kept for backward.

    Args:
        zs: B tensors (N, C, H, W) of one shape, dtype (float16, bfloat16, float32, float64) and device. Other layouts
            than channels_last are converted.
        norms: B modules of C channels; each does what it would on its own, running statistics included.
        weights: B tensors (C, 1, k, k), k odd.
        dilations: B positive integers.

    Returns:
        B tensors like zs, channels_last.

    Raises:
        ValueError: fewer than two values a channel where a norm needs the statistics of the batch.
    """
    zs = [z.contiguous(memory_format=torch.channels_last) for z in zs]
    plan = Plan(tuple(w.shape[-1] for w in weights), tuple(dilations), len(zs), 1, relu=True, affine=True)
    batch, mean, rstd = normalisation(zs, norms)
    gamma, beta = affine_parameters(norms)
    return _NormDepthwise.apply(plan, batch, mean, rstd, gamma, beta, *zs, *weights)  # type: ignore[no-any-return]


class _NormDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        batch: list[bool],
        mean: Tensor,
        rstd: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        zs, weights = tensors[: plan.inputs], tensors[plan.inputs :]
        scale = rstd if gamma is None else gamma * rstd
        shift = -mean * scale if beta is None else beta - mean * scale
        params = pack(weights, (scale, shift), plan.inputs, accumulation_dtype(zs[0].dtype))
        ctx.plan, ctx.batch = plan, batch
        ctx.dtypes = [t.dtype if t is not None else None for t in (gamma, beta, *weights)]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mean, rstd, scale, params, *zs)  # params and inputs last, for `recomputed`
        return tuple(torch.ops.asose_fast.multi_depthwise_fwd(zs, params, *plan))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        mean, rstd, scale, params, *zs = ctx.saved_tensors
        _, _, _, _, need_gamma, need_beta, *needs = ctx.needs_input_grad
        used = [grad is not None for grad in grads]
        need_z = [need and u for need, u in zip(needs, used, strict=False)]
        need_weights = [need and u for need, u in zip(needs[plan.inputs :], used, strict=True)]
        curved = [need and of_batch for need, of_batch in zip(need_z, ctx.batch, strict=True)]
        need_sums = need_gamma or need_beta or any(curved)
        wanted, grad_params = torch.ops.asose_fast.multi_depthwise_bwd(
            grads, zs, params, *plan, need_z, any(need_weights), need_sums
        )
        found = iter(wanted)
        grad_zs = [next(found) if need else None for need in need_z]
        rows = list(grad_params.split(plan.rows)) if len(grad_params) else []
        gamma_dtype, beta_dtype, *weight_dtypes = ctx.dtypes
        grad_gamma = grad_beta = None
        if need_sums:
            s0 = rows[-1].double()
            s1 = rstd * (rows[-2] - mean * s0)
            grad_gamma = s1.to(gamma_dtype) if need_gamma else None
            grad_beta = s0.to(beta_dtype) if need_beta else None
            share = -scale / (zs[0].numel() // zs[0].shape[1])
            slope, offset = share * s1, share * s0
            ones = params.new_ones(2)
            for b in (b for b, need in enumerate(curved) if need):
                grad_zs[b] = torch.ops.asose_fast.mixed_norm_sum_fwd(
                    [zs[b], grad_zs[b]], ones, *(t[b : b + 1] for t in (slope, offset, mean, rstd))
                )
        grad_weights = [
            rows[b].t().reshape(-1, 1, k, k).to(dtype) if need else None
            for b, (k, dtype, need) in enumerate(zip(plan.kernels, weight_dtypes, need_weights, strict=True))
        ]
        return None, None, None, None, grad_gamma, grad_beta, *grad_zs, *grad_weights
