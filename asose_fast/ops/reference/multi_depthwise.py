"""`multi_depthwise` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast.ops.depthwise_plan import DepthwisePlan, unpack
from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import channels_last
from asose_fast.ops.torch_faults import conv2d, convolution_backward

DTYPES = FLOATS


def reference(
    xs: Tensor | Sequence[Tensor],
    depthwise: Sequence[Tensor],
    *,
    dilations: Sequence[int],
    stride: int = 1,
    relu: bool = True,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """The formula of `multi_depthwise` in plain differentiable PyTorch: what every backend is tested against."""
    inputs = [xs] if isinstance(xs, Tensor) else list(xs)
    acc = accumulation_dtype(inputs[0].dtype)
    active = []
    for i, x in enumerate(inputs):
        value = x.to(acc)
        if scale is not None and shift is not None:
            value = value * scale.to(acc).view(len(inputs), -1, 1, 1)[i] + shift.to(acc).view(len(inputs), -1, 1, 1)[i]
        active.append(value.relu() if relu else value)
    ys = []
    for b, (weight, dilation) in enumerate(zip(depthwise, dilations, strict=True)):
        v = active[b if len(active) > 1 else 0]
        dilation = min(dilation, max(v.shape[2:]))  # as good as any longer one, and as much as PyTorch can count
        pad = dilation * (weight.shape[-1] - 1) // 2
        y = conv2d(v, weight.to(acc), (stride,) * 2, (pad,) * 2, (dilation,) * 2, v.shape[1])
        ys.append(channels_last(y.to(inputs[0].dtype)))
    return tuple(ys)


def _unpack(params: Tensor, plan: DepthwisePlan) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    pieces = unpack(params, plan)
    return pieces[: len(plan.kernels)], *(pieces[-2:] if plan.affine else (None, None))


def forward(xs: list[Tensor], params: Tensor, plan: DepthwisePlan, into: list[Tensor] | None = None) -> list[Tensor]:
    """What `reference` gives, as a backend: in the tensors `into` or in new ones."""
    depthwise, scale, shift = _unpack(params, plan)
    ys = reference(
        xs, depthwise, dilations=plan.dilations, stride=plan.stride, relu=plan.relu, scale=scale, shift=shift
    )
    return list(ys) if into is None else [to.copy_(y) for to, y in zip(into, ys, strict=True)]


def backward(
    grads: list[Tensor | None],
    xs: list[Tensor],
    params: Tensor,
    plan: DepthwisePlan,
    need_x: list[bool],
    need_weights: bool,
    need_affine: bool,
) -> tuple[list[Tensor], Tensor]:
    """The gradients of the inputs that need it, and of params: 0 in the rows that are not needed.

    Where neither weights nor affine map need it, the second is an empty tensor.
    """
    depthwise, scale, shift = _unpack(params, plan)
    acc = params.dtype
    grad_params = torch.zeros_like(params)
    rows = list(grad_params.split(plan.rows))
    grad_xs = []
    for i, x in enumerate(xs):
        affine = None if scale is None or shift is None else (scale[i].view(-1, 1, 1), shift[i].view(-1, 1, 1))
        u = x.to(acc) if affine is None else x.to(acc) * affine[0] + affine[1]
        v = u.relu() if plan.relu else u
        g_v = torch.zeros_like(v)
        for b in range(len(depthwise)) if plan.inputs == 1 else (i,):
            grad = grads[b]
            if grad is None:
                continue
            pad, dilation = plan.pad(b), plan.dilations[b]
            g_input, g_weight = convolution_backward(
                grad.to(acc), v, depthwise[b], (plan.stride,) * 2, (pad,) * 2, (dilation,) * 2, v.shape[1],
                need_x=True, need_weight=need_weights,
            )  # fmt: skip
            assert g_input is not None
            g_v += g_input
            if g_weight is not None:
                rows[b].copy_(g_weight.flatten(1).t())
        g_u = torch.where(v <= 0, 0, g_v) if plan.relu else g_v
        if need_affine:
            rows[-2][i], rows[-1][i] = (g_u * x).sum((0, 2, 3)), g_u.sum((0, 2, 3))
        if need_x[i]:
            g_x = g_u if affine is None else g_u * affine[0]
            grad_xs.append(g_x.to(x.dtype).contiguous(memory_format=torch.channels_last))
    return grad_xs, grad_params if need_weights or need_affine else params.new_empty(0)
