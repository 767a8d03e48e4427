"""A chain of separable convolutions with its norms, and the blend with a shortcut, as one node of autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.autocast import computing_dtype, without_autocast
from asose_fast.ops.autograd import differentiable, on_saved, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_images, check_length, check_like, check_stride
from asose_fast.ops.depthwise_plan import check_branch
from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.keeping import keeps
from asose_fast.ops.layout import empty_channels_last
from asose_fast.ops.library import define, present
from asose_fast.ops.mixed_layer.backward import placed
from asose_fast.ops.mixed_layer.checks import check_modules
from asose_fast.ops.mixed_layer.plan import Stage
from asose_fast.ops.norm_lerp import check_blend
from asose_fast.ops.norms import check_count, held, running_statistics, uses_batch
from asose_fast.ops.reference.separable_norm import measured_norms, reference
from asose_fast.ops.separable_norm_call import Backward, Forward, Gradients, none_kept, rows_of_params, strided
from asose_fast.ops.stage import check_weights

registry.register(
    "separable_norm",
    {
        "reference": "asose_fast.ops.reference.separable_norm",
        "cpu": "asose_fast.ops.native.separable_norm",
        "triton": "asose_fast.ops.triton.separable_norm",
    },
    small=True,
)


def separable_norm(
    x: Tensor,
    stages: Sequence[Stage],
    *,
    stride: int = 1,
    shortcut: Tensor | None = None,
    gain: Tensor | None = None,
    checked: bool = False,
) -> Tensor:
    """A chain of separable convolutions, each with its ReLU and norm, and then the blend with a shortcut.

        y = y_S or, with a gain, s + g (y_S - s)
        y_i = BN_i(pointwise_i(depthwise_i(relu(y_{i-1}))))        y_0 = x

    It computes what `mixed_layer` does of one chain, with its kernels, in one call of them a direction: neither outputs
    of depthwise convolutions nor what norms give between two stages are stored. The norms do what their modules would,
    running statistics included. Where g is exactly 0, y and the gradients of the stages do not depend on the stages.

    Args:
        x: (N, C, H, W) float16, bfloat16, float32 or float64. Other layouts than channels_last are converted.
        stages: one or more. Convolutions have no bias: depthwise ones of `same` padding, the first of the stride and
            others of stride 1; (C, C) pointwise ones.
        stride: 1 or 2.
        shortcut: s, in the shape of y and the dtype of x; None with a gain: x itself.
        gain: scalar g, in any floating dtype.
        checked: whether the caller has seen to it that the modules are for x.

    Returns:
        y, (N, C, ceil(H / stride), ceil(W / stride)), channels_last, in the dtype of x.

    Under autocast a float32 x is computed with in autocast's dtype.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or fewer than two values a channel
            where a norm needs the statistics of the batch.
    """
    if not checked:
        check_modules(x, [stages], stride, [])
    shape = torch.Size(strided(x.shape, stride))
    if gain is not None:
        check_blend("separable_norm", shape, x.dtype, x.device, x if shortcut is None else shortcut, gain)
    elif shortcut is not None:
        raise ValueError("separable_norm: a shortcut must come with a gain")
    given, x = x, x.to(computing_dtype(x))
    if shortcut is given:
        shortcut = None
    shortcut = None if shortcut is None else shortcut.to(x.dtype)
    dilations = [stage.depthwise.dilation[0] for stage in stages]
    depthwise, pointwise = ([held(stage[i], "weight") for stage in stages] for i in (0, 1))
    norms = [stage.norm for stage in stages]
    with without_autocast(x):
        if transformed():
            return reference(x, depthwise, pointwise, norms, dilations, stride, shortcut, gain).to(given.dtype)  # type: ignore[arg-type]
        call = _Call(norms, list(map(uses_batch, norms)), dilations, stride)
        check_count(call.of_batch, shape)
        affine = [[held(norm, name) for norm in norms] for name in ("weight", "bias")]
        x = x.contiguous(memory_format=torch.channels_last)
        y: Tensor = _SeparableNorm.apply(call, x, shortcut, gain, *depthwise, *pointwise, *chain(*affine))
    return y.to(given.dtype)


class _Call(NamedTuple):
    """What the node computes, apart from its tensors."""

    norms: list[nn.BatchNorm2d]
    of_batch: list[bool]
    dilations: list[int]
    stride: int

    def split(self, values: Sequence[Any]) -> list[list[Any]]:
        """What there is a stage of depthwise and pointwise weights, gammas and betas, in this order."""
        stages = len(self.norms)
        return [list(values[i : i + stages]) for i in range(0, 4 * stages, stages)]


def _plain(ctx: Any) -> tuple[Callable[..., Tensor], Sequence[Any]]:
    call: _Call = ctx.call
    x, shortcut, gain, _, tables, _, _, *tensors = ctx.saved_tensors

    def plain(_: object, x: Tensor, shortcut: Tensor | None, gain: Tensor | None, *tensors: Tensor | None) -> Tensor:
        depthwise, pointwise, gamma, beta = call.split(tensors)
        norms = measured_norms(tables, gamma, beta, call.of_batch)
        return reference(x, depthwise, pointwise, norms, call.dilations, call.stride, shortcut, gain)

    return plain, (call, x, shortcut, gain, *tensors)


def _arguments(
    call: _Call, x: Tensor, shortcut: Tensor | None, gain: Tensor | None, *tensors: Tensor | None
) -> Forward:
    statistics = [running_statistics(norm) for norm in call.norms]
    means, variances, counts, momenta = zip(*statistics, strict=True)
    depthwise, pointwise, gamma, beta = call.split(tensors)
    return Forward(
        x, depthwise, pointwise, shortcut, gain, gamma, beta, present(means), present(variances), present(counts),
        [mean is not None for mean in means], [count is not None for count in counts], call.of_batch,
        [norm.eps for norm in call.norms], list(momenta), call.dilations, call.stride,
    )  # fmt: skip


class _SeparableNorm(torch.autograd.Function):
    """Its inputs: what it computes, x, the shortcut, the gain, and what `_Call.split` names."""

    @staticmethod
    def forward(*arguments: Any) -> Tensor:
        ctx, call, x, shortcut, gain, *tensors = arguments
        y: Tensor
        y, *saved = separable_norm_fwd.unchecked(*_arguments(call, x, shortcut, gain, *tensors))
        ctx.call = call
        save(ctx, x, shortcut, gain, *saved, *tensors)
        return y

    @staticmethod
    @twice_differentiable(differentiable(_plain))
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        x, shortcut, gain, zs, tables, ys, params, *tensors = ctx.saved_tensors
        _, need_x, need_shortcut, need_gain, *needs = ctx.needs_input_grad
        depthwise, pointwise, gamma, beta = call.split(tensors)
        need_depthwise, need_pointwise, *need_affine = call.split(needs)
        need_norms = list(map(any, zip(*need_affine, strict=True)))
        found = Gradients(
            *on_saved(ctx, separable_norm_bwd)(
                grad, x, depthwise, pointwise, shortcut, gain, gamma, beta, zs, tables, ys, params,
                call.of_batch, call.dilations, call.stride, need_x, need_shortcut, need_gain, need_depthwise,
                need_pointwise, need_norms,
            )
        )  # fmt: skip
        of_norms = (
            placed(of, [need and t is not None for need, t in zip(need_norms, tensors, strict=True)])
            for of, tensors in ((found.gamma, gamma), (found.beta, beta))
        )
        given = chain(placed(found.depthwise, need_depthwise), placed(found.pointwise, need_pointwise), *of_norms)
        return (
            None,
            found.x if need_x else None,
            found.shortcut if need_shortcut else None,
            found.gain if need_gain else None,
            *(g if need else None for g, need in zip(given, needs, strict=True)),
        )


def _fwd(*args: Any) -> Any:
    return registry.select("separable_norm", args[0]).forward(Forward(*args))


def _check_tensors(where: str, call: Forward | Backward) -> None:
    check_images(f"{where}: x", call.x)
    check_stride(f"{where}: stride", call.stride)
    check_weights(where, call.depthwise, call.pointwise)
    stages, channels = len(call.depthwise), call.x.shape[1]
    if channels != call.depthwise[0].shape[0]:
        raise ValueError(f"{where}: x must have C = {call.depthwise[0].shape[0]} channels, got {channels}")
    for name in ("gamma", "beta", "of_batch", "dilations"):
        check_length(f"{where}: {name}", getattr(call, name), stages, stages)
    for s, (weight, dilation) in enumerate(zip(call.depthwise, call.dilations, strict=True)):
        check_branch(s, weight.shape[-1], dilation)
    for name in ("gamma", "beta"):
        for s, table in enumerate(getattr(call, name)):
            check_like(f"{where}: {name}[{s}]", table, (channels,), *FLOATS)
    if call.shortcut is not None and call.gain is None:
        raise ValueError(f"{where}: a shortcut must come with a gain")
    if call.gain is not None and call.shortcut is None and call.stride != 1:
        raise ValueError(f"{where}: x is no shortcut of stride {call.stride}")
    check_like(f"{where}: shortcut", call.shortcut, strided(call.x.shape, call.stride), call.x.dtype)
    check_like(f"{where}: gain", call.gain, (), *FLOATS)


def _check_fwd(*args: Any) -> None:
    where, call = "separable_norm_fwd", Forward(*args)
    _check_tensors(where, call)
    stages = len(call.depthwise)
    for name in ("has_running", "updates", "eps", "momenta"):
        check_length(f"{where}: {name}", getattr(call, name), stages, stages)
    tracked, updated = sum(call.has_running), sum(call.updates)
    for name, wanted in (("running_mean", tracked), ("running_var", tracked), ("counts", updated)):
        check_length(f"{where}: {name}", getattr(call, name), wanted, wanted)
    for norm in call.norms:
        norm.check(where, torch.Size(call.out_shape))


def _fwd_fake(*args: Any) -> tuple[Tensor, ...]:
    call = Forward(*args)
    x, stages, (images, *rest) = call.x, len(call.depthwise), call.out_shape
    y, zs = empty_channels_last(x, call.out_shape), empty_channels_last(x, (stages * images, *rest))
    tables = x.new_empty(stages, 2, x.shape[1], dtype=torch.float64)
    if not keeps("separable_norm", x, call):
        return y, zs, tables, *none_kept(x)
    params = x.new_empty(sum(rows_of_params(call.depthwise)), x.shape[1], dtype=accumulation_dtype(x.dtype))
    return y, zs, tables, empty_channels_last(x, zs.shape), params


def _bwd(*args: Any) -> Any:
    return registry.select("separable_norm", args[0]).backward(Backward(*args))


def _check_bwd(*args: Any) -> None:
    where, call = "separable_norm_bwd", Backward(*args)
    _check_tensors(where, call)
    stages, shape = len(call.depthwise), strided(call.x.shape, call.stride)
    check_like(f"{where}: grad", call.grad, shape, call.x.dtype)
    check_like(f"{where}: zs", call.zs, (stages * shape[0], *shape[1:]), call.x.dtype)
    check_like(f"{where}: tables", call.tables, (stages, 2, call.x.shape[1]), torch.float64)
    kept, rows = call.ys.numel() > 0, sum(rows_of_params(call.depthwise))
    check_like(f"{where}: ys", call.ys, tuple(call.zs.shape) if kept else (0,), call.x.dtype)
    params = (rows, call.x.shape[1]) if kept else (0,)
    check_like(f"{where}: params", call.params, params, accumulation_dtype(call.x.dtype))
    for name in ("need_depthwise", "need_pointwise", "need_affine"):
        check_length(f"{where}: {name}", getattr(call, name), stages, stages)


def _bwd_fake(*args: Any) -> Gradients:
    call = Backward(*args)
    none = call.grad.new_empty

    def some(tensors: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor]:
        return [torch.empty_like(t) for t, need in zip(tensors, needs, strict=True) if need and t is not None]

    return Gradients(
        empty_channels_last(call.x, call.x.shape) if call.need_x else none(0),
        none(0) if call.shortcut is None or not call.need_shortcut else empty_channels_last(call.x, call.grad.shape),
        none(0) if call.gain is None or not call.need_gain else torch.empty_like(call.gain),
        some(call.depthwise, call.need_depthwise),
        some(call.pointwise, call.need_pointwise),
        some(call.gamma, call.need_affine),
        some(call.beta, call.need_affine),
    )


TENSORS = (
    "Tensor x, Tensor[] depthwise, Tensor[] pointwise, Tensor? shortcut, Tensor? gain, Tensor?[] gamma, Tensor?[] beta"
)
separable_norm_fwd = define(
    f"separable_norm_fwd({TENSORS}, Tensor(a!)[] running_mean, Tensor(b!)[] running_var, Tensor(c!)[] counts, "
    "bool[] has_running, bool[] updates, bool[] of_batch, float[] eps, float[] momenta, int[] dilations, int stride) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
separable_norm_bwd = define(
    f"separable_norm_bwd(Tensor grad, {TENSORS}, Tensor zs, Tensor tables, Tensor ys, Tensor params, "
    "bool[] of_batch, int[] dilations, int stride, bool need_x, bool need_shortcut, bool need_gain, "
    "bool[] need_depthwise, bool[] need_pointwise, bool[] need_affine) "
    "-> (Tensor, Tensor, Tensor, Tensor[], Tensor[], Tensor[], Tensor[])",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
