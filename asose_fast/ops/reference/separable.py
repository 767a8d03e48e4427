"""`separable` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from asose_fast.ops.depthwise_plan import DepthwisePlan
from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import channels_last
from asose_fast.ops.reference.multi_depthwise import backward as depthwise_backward
from asose_fast.ops.reference.multi_depthwise import forward as depthwise_forward
from asose_fast.ops.reference.multi_depthwise import reference as depthwise_reference

DTYPES = FLOATS


def reference(
    xs: Tensor | Sequence[Tensor],
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    *,
    dilations: Sequence[int],
    stride: int = 1,
    relu: bool = True,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """The formula of `separable` in plain differentiable PyTorch: what every backend is tested against."""
    first = xs if isinstance(xs, Tensor) else xs[0]
    acc = accumulation_dtype(first.dtype)
    wide = xs.to(acc) if isinstance(xs, Tensor) else [x.to(acc) for x in xs]
    ys = depthwise_reference(wide, depthwise, dilations=dilations, stride=stride, relu=relu, scale=scale, shift=shift)
    zs = (F.conv2d(y, w.to(acc)) for y, w in zip(ys, pointwise, strict=True))
    return tuple(channels_last(z.to(first.dtype)) for z in zs)


def forward(
    xs: list[Tensor], params: Tensor, pointwise: Tensor, plan: DepthwisePlan, statistics: bool
) -> tuple[list[Tensor], Tensor, Tensor]:
    """The outputs and, where wanted, their means and biased variances, (B, C) float64; as a backend."""
    wide = [x.to(params.dtype) for x in xs]
    ys = depthwise_forward(wide, params, plan)
    zs = [F.conv2d(y, w[:, :, None, None]) for y, w in zip(ys, pointwise, strict=True)]
    if statistics:
        exact = torch.stack([z.double() for z in zs])
        mean = exact.mean((1, 3, 4))
        var = (exact - mean[:, None, :, None, None]).square().mean((1, 3, 4))
    else:
        mean, var = (params.new_empty(0, dtype=torch.float64) for _ in range(2))
    return [z.to(xs[0].dtype).contiguous(memory_format=torch.channels_last) for z in zs], mean, var


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
    """The gradients of the inputs that need it, of params and of pointwise; as a backend.

    dL/dz = scale * grad + slope * (z - center) + shift with the four rows of `tables` (B, 4, C) in this order, the last
    two terms only where z is there: what a batch norm of z makes of its gradient. Where scale is 0 it is 0, whatever z
    is; the CPU's kernels leave that to their caller, who can see the scale. Of params, rows that are not needed are 0;
    where neither weights nor affine map need it, it is an empty tensor, as the last is where it is not needed.
    """
    acc = params.dtype
    wide = [x.to(acc) for x in xs]
    ys = depthwise_forward(wide, params, plan)
    grad_ys: list[Tensor | None] = []
    grad_pointwise = torch.zeros_like(pointwise)
    for b, (grad, z) in enumerate(zip(grads, zs, strict=True)):
        if grad is None:
            grad_ys.append(None)
            continue
        scale, center, slope, shift = tables[b, :, :, None, None].to(acc)
        grad_z = scale * grad.to(acc)
        if z is not None:
            grad_z = grad_z + slope * (z.to(acc) - center) + shift
        grad_z = torch.where(scale == 0, 0, grad_z)
        grad_ys.append(F.conv2d(grad_z, pointwise[b].t()[:, :, None, None]))
        grad_pointwise[b] = torch.einsum("nohw,nchw->oc", grad_z, ys[b])
    grad_xs, grad_params = depthwise_backward(grad_ys, wide, params, plan, need_x, need_depthwise, need_affine)
    return (
        [g.to(xs[0].dtype) for g in grad_xs],
        grad_params,
        grad_pointwise if need_pointwise else params.new_empty(0),
    )
