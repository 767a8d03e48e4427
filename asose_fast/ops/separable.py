"""Depthwise-separable convolutions of a mixed layer: depthwise and pointwise in one pass, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autocast import without_autocast
from asose_fast.ops.autograd import gradients, save, transformed, twice_differentiable
from asose_fast.ops.checks import as_list, check_all_like, check_like, check_tensor
from asose_fast.ops.depthwise_plan import (
    PLAN,
    DepthwisePlan,
    check_needs,
    check_plan,
    pack,
    pack_pointwise,
    plan_of,
    unpack,
)
from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import empty_channels_last
from asose_fast.ops.library import define
from asose_fast.ops.multi_depthwise import check
from asose_fast.ops.multi_depthwise import split as depthwise_split
from asose_fast.ops.reference.separable import reference

registry.register(
    "separable",
    {
        "reference": "asose_fast.ops.reference.separable",
        "cpu": "asose_fast.ops.native.separable",
        "triton": "asose_fast.ops.triton.separable",
    },
)


def separable(
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
    """Depthwise-separable convolutions of B branches in one pass, forward and backward (docs/kernels.md).

        z_b = conv2d(y_b, pointwise_b)        y = multi_depthwise(xs, depthwise, ...)

    The y are neither stored nor kept: backward computes them again, tile by tile, from xs.

    Args:
        xs: as in `multi_depthwise`, and so are depthwise, dilations, stride, relu, scale and shift.
        pointwise: B tensors (C, C, 1, 1), in any floating dtype.

    Returns:
        B tensors (N, C, ceil(H / stride), ceil(W / stride)), channels_last, in the dtype of xs.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape, device or range.
    """
    plan, inputs, affine = check(xs, depthwise, dilations, stride, relu, scale, shift)
    pointwise = as_list("separable: pointwise", pointwise)
    check_pointwise(pointwise, inputs[0], len(depthwise))
    if transformed():
        with without_autocast(inputs[0]):
            return _plain(plan, *inputs, *depthwise, *pointwise, *affine)
    return _Separable.apply(plan, *inputs, *depthwise, *pointwise, *affine)  # type: ignore[no-any-return]


def check_pointwise(pointwise: Sequence[Tensor], x: Tensor, branches: int) -> None:
    """Raises TypeError or ValueError where these are not `branches` matrices for the channels of x."""
    channels = x.shape[1]
    if len(pointwise) != branches:
        raise ValueError(f"separable: {branches} depthwise weights need as many pointwise ones, got {len(pointwise)}")
    for b, weight in enumerate(pointwise):
        check_tensor(f"separable: pointwise[{b}]", weight)
        if not weight.is_floating_point():
            raise TypeError(f"separable: pointwise[{b}] must be a floating tensor, got {weight.dtype}")
        if weight.shape != (channels, channels, 1, 1):
            raise ValueError(
                f"separable: pointwise[{b}] must be (C, C, 1, 1) with C = {channels}, got {tuple(weight.shape)}"
            )
        if weight.device != x.device:
            raise ValueError(f"separable: pointwise[{b}] is on {weight.device}, xs on {x.device}")


def _plain(plan: DepthwisePlan, *tensors: Tensor) -> tuple[Tensor, ...]:
    xs, depthwise, pointwise, affine = _split(plan, tensors)
    scale, shift = affine or (None, None)
    return reference(
        xs, depthwise, pointwise,
        dilations=plan.dilations, stride=plan.stride, relu=plan.relu, scale=scale, shift=shift,
    )  # fmt: skip


def _differentiable_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    _, _, *tensors = ctx.saved_tensors
    return gradients(ctx, _plain, (ctx.plan, *tensors), grads)


class _Separable(torch.autograd.Function):
    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        ctx, plan, *tensors = arguments
        xs, depthwise, pointwise, affine = _split(plan, tensors)
        acc = accumulation_dtype(xs[0].dtype)
        params, matrices = pack(depthwise, affine, plan.inputs, acc), pack_pointwise(pointwise, acc)
        ctx.plan = plan
        ctx.like = [(t.dtype, t.shape) for t in tensors]
        ctx.set_materialize_grads(False)
        save(ctx, params, matrices, *tensors)
        zs, _, _ = separable_fwd(xs, params, matrices, *plan, False)
        return tuple(zs)

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        plan: DepthwisePlan = ctx.plan
        params, matrices, *tensors = ctx.saved_tensors
        xs = tensors[: plan.inputs]
        needs = ctx.needs_input_grad[1:]
        need_x, need_weights, need_pointwise, need_affine = _split(plan, needs)
        tables = params.new_zeros(len(grads), 4, params.shape[1])
        tables[:, 0] = 1
        grad_xs, grad_params, grad_pointwise = separable_bwd(
            grads, [None] * len(grads), tables, xs, params, matrices, *plan,
            need_x, any(need_weights), any(need_pointwise), any(need_affine),
        )  # fmt: skip
        wanted = iter(grad_xs)
        result: list[Tensor | None] = [next(wanted) if need else None for need in need_x]
        rows = unpack(grad_params, plan) if len(grad_params) else [None] * len(plan.rows)
        result += rows[: len(grads)]
        result += list(grad_pointwise) if len(grad_pointwise) else [None] * len(grads)
        result += rows[len(grads) :]
        used = [True] * plan.inputs + [g is not None for g in (*grads, *grads)] + [True] * len(need_affine)
        return None, *(
            grad.reshape(shape).to(dtype) if grad is not None and need and is_used else None
            for grad, need, is_used, (dtype, shape) in zip(result, needs, used, ctx.like, strict=True)
        )


def _split(plan: DepthwisePlan, values: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """What belongs to the inputs, to the depthwise and pointwise weights and to the affine map."""
    xs, depthwise, rest = depthwise_split(plan, values)
    return xs, depthwise, rest[: len(depthwise)], rest[len(depthwise) :]


def _fwd(xs: list[Tensor], params: Tensor, pointwise: Tensor, *rest: Any) -> Any:
    *values, statistics = rest
    plan = plan_of(values).within(xs[0])
    return registry.select("separable", xs[0]).forward(xs, params, pointwise, plan, statistics)


def _check_fwd(xs: list[Tensor], params: Tensor, pointwise: Tensor, *rest: Any) -> None:
    *values, _ = rest
    _check_operands("separable_fwd", xs, params, pointwise, plan_of(values))


def _check_operands(where: str, xs: list[Tensor], params: Tensor, pointwise: Tensor, plan: DepthwisePlan) -> None:
    check_plan(where, xs, params, plan)
    channels = xs[0].shape[1]
    shape = len(plan.kernels), channels, channels
    if pointwise.shape != shape or pointwise.dtype is not params.dtype:
        check_like(f"{where}: pointwise", pointwise, shape, params.dtype)


def _fwd_fake(xs: list[Tensor], params: Tensor, pointwise: Tensor, *rest: Any) -> tuple[list[Tensor], Tensor, Tensor]:
    *values, statistics = rest
    plan = plan_of(values)
    zs = [empty_channels_last(xs[0], plan.out_shape(xs[0])) for _ in plan.kernels]
    shape = (len(zs), xs[0].shape[1]) if statistics else (0,)
    return zs, params.new_empty(shape, dtype=torch.float64), params.new_empty(shape, dtype=torch.float64)


class _Backward(NamedTuple):
    """The arguments of the registered operator, whose values of the plan are one here."""

    grads: list[Tensor | None]
    zs: list[Tensor | None]
    tables: Tensor
    xs: list[Tensor]
    params: Tensor
    pointwise: Tensor
    plan: DepthwisePlan
    need_x: list[bool]
    need_depthwise: bool
    need_pointwise: bool
    need_affine: bool

    @staticmethod
    def of(*args: Any) -> _Backward:
        return _Backward._make((*args[:6], plan_of(args[6:-4]), *args[-4:]))


def _bwd(*args: Any) -> Any:
    call = _Backward.of(*args)
    x = call.xs[0]
    return registry.select("separable", x).backward(*call._replace(plan=call.plan.within(x)))


def _check_bwd(*args: Any) -> None:
    where, call = "separable_bwd", _Backward.of(*args)
    _check_operands(where, call.xs, call.params, call.pointwise, call.plan)
    branches, shape, dtype = len(call.plan.kernels), call.plan.out_shape(call.xs[0]), call.xs[0].dtype
    check_all_like(f"{where}: grads", call.grads, branches, shape, dtype)
    check_all_like(f"{where}: zs", call.zs, branches, shape, dtype)
    check_like(f"{where}: tables", call.tables, (branches, 4, shape[1]), *FLOATS)
    check_needs(where, call.plan, call.need_x, call.need_affine)


def _bwd_fake(*args: Any) -> tuple[list[Tensor], Tensor, Tensor]:
    call = _Backward.of(*args)
    return (
        [empty_channels_last(x, x.shape) for x, need in zip(call.xs, call.need_x, strict=True) if need],
        torch.empty_like(call.params) if call.need_depthwise or call.need_affine else call.params.new_empty(0),
        torch.empty_like(call.pointwise) if call.need_pointwise else call.params.new_empty(0),
    )


separable_fwd = define(
    f"separable_fwd(Tensor[] xs, Tensor params, Tensor pointwise, {PLAN}, bool statistics) "
    "-> (Tensor[], Tensor, Tensor)",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
separable_bwd = define(
    "separable_bwd(Tensor?[] grads, Tensor?[] zs, Tensor tables, Tensor[] xs, Tensor params, Tensor pointwise, "
    f"{PLAN}, bool[] need_x, bool need_depthwise, bool need_pointwise, bool need_affine) "
    "-> (Tensor[], Tensor, Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
