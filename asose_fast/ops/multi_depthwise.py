"""All depthwise convolutions of a mixed layer in one pass: shared or per-branch input, affine map and ReLU on load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autocast import without_autocast
from asose_fast.ops.autograd import gradients, save, transformed, twice_differentiable
from asose_fast.ops.checks import (
    as_list,
    check_all_like,
    check_flag,
    check_images,
    check_stride,
    check_tensor,
)
from asose_fast.ops.depthwise_plan import (
    MAX_BRANCHES,
    PLAN,
    DepthwisePlan,
    check_branch,
    check_needs,
    check_plan,
    pack,
    plan_of,
)
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import channels_last, empty_channels_last
from asose_fast.ops.library import define
from asose_fast.ops.reference.multi_depthwise import reference

registry.register(
    "multi_depthwise",
    {
        "reference": "asose_fast.ops.reference.multi_depthwise",
        "cpu": "asose_fast.ops.native.multi_depthwise",
        "cuda": "asose_fast.ops.native.multi_depthwise_cuda",
        "triton": "asose_fast.ops.triton.multi_depthwise",
    },
)


def multi_depthwise(
    xs: Tensor | Sequence[Tensor],
    depthwise: Sequence[Tensor],
    *,
    dilations: Sequence[int],
    stride: int = 1,
    relu: bool = True,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Depthwise convolutions of B branches in one pass, forward and backward (docs/kernels.md).

        y_b = conv2d(v_b, depthwise_b, stride, padding=d_b (k_b - 1) / 2, dilation=d_b, groups=C)
        v_b = relu(scale_b * x_b + shift_b)             one v for all branches where xs is a single tensor

        g_v = sum over the branches of v of conv_transpose(g_b, depthwise_b)        u = scale * x + shift
        g_u = g_v where u > 0        dL/dx = scale * g_u        dL/dscale = sum g_u * x        dL/dshift = sum g_u
        dL/ddepthwise_b[i, j] = sum g_b * v_b shifted by the tap

    With the scale and shift of a batch norm these are its two sums, so that its backward needs no further pass over
    the inputs. The activated v is never stored. Gradients that autograd does not ask for, and those of branches
    whose output is not used, are not computed. Arithmetic is in float32 (float64 for float64 inputs), and no result
    depends on the thread count. (3, 5, 7; dilation 1) and (3, 5; dilation 2) are fastest.

    Args:
        xs: one tensor (N, C, H, W) for all branches, or one a branch, of one shape, dtype (float16, bfloat16, float32,
            float64) and device. Other layouts than channels_last are converted.
        depthwise: B tensors (C, 1, k, k), k odd, 1 <= B <= 32, in any floating dtype.
        dilations: B positive integers.
        stride: 1 or 2.
        relu: whether v has the ReLU.
        scale: (C,) with a single tensor, (B, C) with a sequence; None for no affine map.
        shift: like scale; both or neither.

    Returns:
        B tensors (N, C, ceil(H / stride), ceil(W / stride)), channels_last, in the dtype of xs.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape, device or range.
    """
    plan, inputs, affine = check(xs, depthwise, dilations, stride, relu, scale, shift)
    if transformed():
        with without_autocast(inputs[0]):
            return _plain(plan, *inputs, *depthwise, *affine)
    return _MultiDepthwise.apply(plan, *inputs, *depthwise, *affine)  # type: ignore[no-any-return]


def check(
    xs: Tensor | Sequence[Tensor],
    depthwise: Sequence[Tensor],
    dilations: Sequence[int],
    stride: int,
    relu: bool,
    scale: Tensor | None,
    shift: Tensor | None,
) -> tuple[DepthwisePlan, list[Tensor], tuple[Tensor, ...]]:
    """The plan, the inputs in channels_last and the affine map of valid arguments; else raises as `multi_depthwise`."""
    shared = isinstance(xs, Tensor)
    inputs = [xs] if isinstance(xs, Tensor) else as_list("multi_depthwise: xs", xs)
    depthwise = as_list("multi_depthwise: depthwise", depthwise)
    dilations = as_list("multi_depthwise: dilations", dilations)
    check_flag("multi_depthwise: relu", relu)
    _check(inputs, depthwise, dilations, stride, shared)
    if (scale is None) != (shift is None):
        raise ValueError("multi_depthwise: give both scale and shift, or neither")
    affine = () if scale is None or shift is None else (scale, shift)
    for name, value in zip(("scale", "shift"), affine, strict=False):
        _check_affine(name, value, inputs[0], None if shared else len(depthwise))
    kernels = tuple(w.shape[-1] for w in depthwise)
    plan = DepthwisePlan(kernels, tuple(dilations), len(inputs), stride, relu, bool(affine)).within(inputs[0])
    return plan, [channels_last(x) for x in inputs], affine


def _check(xs: list[Tensor], depthwise: list[Tensor], dilations: list[int], stride: int, shared: bool) -> None:
    if not 1 <= len(depthwise) <= MAX_BRANCHES:
        raise ValueError(f"multi_depthwise: depthwise must hold 1 to {MAX_BRANCHES} tensors, got {len(depthwise)}")
    if len(dilations) != len(depthwise):
        raise ValueError(
            f"multi_depthwise: {len(depthwise)} depthwise weights need as many dilations, got {len(dilations)}"
        )
    if not shared and len(xs) != len(depthwise):
        raise ValueError(f"multi_depthwise: {len(depthwise)} depthwise weights need one x or as many, got {len(xs)}")
    check_stride("multi_depthwise: stride", stride)
    for i, x in enumerate(xs):
        name = "xs" if shared else f"xs[{i}]"
        check_images(f"multi_depthwise: {name}", x)
        if (x.shape, x.dtype, x.device) != (xs[0].shape, xs[0].dtype, xs[0].device):
            raise ValueError(
                f"multi_depthwise: {name} is {x.dtype} {tuple(x.shape)} on {x.device}, "
                f"xs[0] is {xs[0].dtype} {tuple(xs[0].shape)} on {xs[0].device}"
            )
    channels = xs[0].shape[1]
    for b, (weight, dilation) in enumerate(zip(depthwise, dilations, strict=True)):
        check_tensor(f"multi_depthwise: depthwise[{b}]", weight)
        if not weight.is_floating_point():
            raise TypeError(f"multi_depthwise: depthwise[{b}] must be a floating tensor, got {weight.dtype}")
        if weight.dim() != 4 or weight.shape[:2] != (channels, 1) or weight.shape[2] != weight.shape[3]:
            raise ValueError(
                f"multi_depthwise: depthwise[{b}] must be (C, 1, k, k) with C = {channels}, got {tuple(weight.shape)}"
            )
        if weight.device != xs[0].device:
            raise ValueError(f"multi_depthwise: depthwise[{b}] is on {weight.device}, xs on {xs[0].device}")
        check_branch(b, weight.shape[3], dilation)


def _check_affine(name: str, value: Tensor, x: Tensor, branches: int | None) -> None:
    shape = (x.shape[1],) if branches is None else (branches, x.shape[1])
    check_tensor(f"multi_depthwise: {name}", value)
    if value.shape != shape:
        raise ValueError(f"multi_depthwise: {name} must have shape {shape}, got {tuple(value.shape)}")
    if not value.is_floating_point() or value.device != x.device:
        raise TypeError(f"multi_depthwise: {name} must be floating on {x.device}, got {value.dtype} on {value.device}")


def _plain(plan: DepthwisePlan, *tensors: Tensor) -> tuple[Tensor, ...]:
    xs, depthwise, affine = split(plan, tensors)
    scale, shift = affine or (None, None)
    return reference(
        xs, depthwise, dilations=plan.dilations, stride=plan.stride, relu=plan.relu, scale=scale, shift=shift
    )


def _differentiable_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    _, *tensors = ctx.saved_tensors
    return gradients(ctx, _plain, (ctx.plan, *tensors), grads)


class _MultiDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        ctx, plan, *tensors = arguments
        xs, depthwise, affine = split(plan, tensors)
        acc = accumulation_dtype(xs[0].dtype)
        params = pack(depthwise, affine, plan.inputs, acc)
        ctx.plan = plan
        ctx.weight_dtypes = [t.dtype for t in depthwise]
        ctx.affine = [(t.dtype, t.shape) for t in affine]
        ctx.set_materialize_grads(False)
        save(ctx, params, *tensors)
        return tuple(multi_depthwise_fwd(xs, params, *plan))

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        plan: DepthwisePlan = ctx.plan
        params, *tensors = ctx.saved_tensors
        xs = tensors[: plan.inputs]
        need_x, need_weights, need_affine = split(plan, ctx.needs_input_grad[1:])
        grad_xs, grad_params = multi_depthwise_bwd(
            grads, xs, params, *plan, need_x, any(need_weights), any(need_affine)
        )
        wanted = iter(grad_xs)
        result: list[Tensor | None] = [next(wanted) if need else None for need in need_x]
        if not (any(need_weights) or any(need_affine)):
            return None, *result, *(None for _ in plan.rows)
        rows = grad_params.split(plan.rows)
        for row, grad, k, dtype, need in zip(rows, grads, plan.kernels, ctx.weight_dtypes, need_weights, strict=False):
            result.append(row.t().reshape(-1, 1, k, k).to(dtype) if need and grad is not None else None)
        for row, (dtype, shape), need in zip(rows[len(grads) :], ctx.affine, need_affine, strict=True):
            result.append(row.reshape(shape).to(dtype) if need else None)
        return None, *result


def split(plan: DepthwisePlan, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """What belongs to the inputs, to the weights and to the affine map."""
    last = plan.inputs + len(plan.kernels)
    return list(values[: plan.inputs]), list(values[plan.inputs : last]), list(values[last:])


def _fwd(xs: list[Tensor], params: Tensor, *values: Any) -> Any:
    plan = plan_of(values).within(xs[0])
    return registry.select("multi_depthwise", xs[0], plan).forward(xs, params, plan)


def _check_fwd(xs: list[Tensor], params: Tensor, *values: Any) -> None:
    check_plan("multi_depthwise_fwd", xs, params, plan_of(values))


def _check_bwd(grads: list[Tensor | None], xs: list[Tensor], params: Tensor, *rest: Any) -> None:
    *values, need_x, _, need_affine = rest
    where, plan = "multi_depthwise_bwd", plan_of(values)
    check_plan(where, xs, params, plan)
    check_all_like(f"{where}: grads", grads, len(plan.kernels), plan.out_shape(xs[0]), xs[0].dtype)
    check_needs(where, plan, need_x, need_affine)


def _fwd_fake(xs: list[Tensor], params: Tensor, *plan: Any) -> list[Tensor]:
    return [empty_channels_last(xs[0], plan_of(plan).out_shape(xs[0])) for _ in plan_of(plan).kernels]


def _bwd(grads: list[Tensor | None], xs: list[Tensor], params: Tensor, *rest: Any) -> Any:
    *values, need_x, need_weights, need_affine = rest
    plan = plan_of(values).within(xs[0])
    return registry.select("multi_depthwise", xs[0], plan).backward(
        grads, xs, params, plan, need_x, need_weights, need_affine
    )


def _bwd_fake(grads: list[Tensor | None], xs: list[Tensor], params: Tensor, *rest: Any) -> tuple[list[Tensor], Tensor]:
    *_, need_x, need_weights, need_affine = rest
    grad_xs = [empty_channels_last(x, x.shape) for x, need in zip(xs, need_x, strict=True) if need]
    return grad_xs, torch.empty_like(params) if need_weights or need_affine else params.new_empty(0)


multi_depthwise_fwd = define(
    f"multi_depthwise_fwd(Tensor[] xs, Tensor params, {PLAN}) -> Tensor[]", _fwd, _fwd_fake, _check_fwd
)
multi_depthwise_bwd = define(
    f"multi_depthwise_bwd(Tensor?[] grads, Tensor[] xs, Tensor params, {PLAN}, bool[] need_x, bool need_weights, "
    "bool need_affine) -> (Tensor[], Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
