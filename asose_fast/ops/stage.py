"""The stages of one depth of a mixed layer: separable convolutions that take their weights from the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.checks import check_all_like, check_length, check_like, check_tensor
from asose_fast.ops.depthwise_plan import MAX_BRANCHES, DepthwisePlan, check_inputs, check_needs
from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.keeping import keeps
from asose_fast.ops.layout import empty_channels_last
from asose_fast.ops.library import define

registry.register(
    "stage",
    {
        "reference": "asose_fast.ops.reference.stage",
        "cpu": "asose_fast.ops.native.stage",
        "triton": "asose_fast.ops.triton.stage",
    },
    small=True,
)
WIDE = (torch.float32, torch.float64)


def _plan(
    depthwise: Sequence[Tensor], inputs: int, dilations: Sequence[int], stride: int, affine: bool
) -> DepthwisePlan:
    """The plan of stages, which begin with a ReLU."""
    return DepthwisePlan(tuple([w.shape[-1] for w in depthwise]), tuple(dilations), inputs, stride, True, affine)


class _Forward(NamedTuple):
    """The arguments of the registered operator."""

    xs: list[Tensor]
    depthwise: list[Tensor]
    pointwise: list[Tensor]
    mean: Tensor | None
    rstd: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    dilations: list[int]
    stride: int
    statistics: bool

    def plan(self) -> DepthwisePlan:
        """The plan of the convolutions."""
        return _plan(self.depthwise, len(self.xs), self.dilations, self.stride, self.mean is not None)


def _fwd(*args: Any) -> Any:
    call = _Forward(*args)
    x = call.xs[0]
    return registry.select("stage", x).forward(*call[:7], call.plan().within(x), call.statistics)


def _check_fwd(*args: Any) -> None:
    where, call = "stage_fwd", _Forward(*args)
    check_weights(where, call.depthwise, call.pointwise)
    _check_norms(where, call.depthwise, mean=call.mean, rstd=call.rstd, gamma=call.gamma, beta=call.beta)
    _check_images(where, call.xs, call.depthwise, call.plan())


def _check_images(where: str, xs: list[Tensor], depthwise: list[Tensor], plan: DepthwisePlan) -> int:
    """Raises TypeError or ValueError unless these are inputs for the weights; the rows of params."""
    rows = check_inputs(where, xs, plan)
    if plan.affine and plan.inputs != len(depthwise):
        raise ValueError(f"{where}: xs must be {len(depthwise)}, one a branch, where norms come before, got {len(xs)}")
    if xs[0].shape[1] != depthwise[0].shape[0]:
        raise ValueError(f"{where}: xs must have C = {depthwise[0].shape[0]} channels, got {xs[0].shape[1]}")
    return rows


def check_weights(where: str, depthwise: list[Tensor], pointwise: list[Tensor]) -> None:
    """Raises TypeError or ValueError unless these are the weights of stages."""
    check_length(f"{where}: depthwise", depthwise, 1, MAX_BRANCHES)
    check_length(f"{where}: pointwise", pointwise, len(depthwise), len(depthwise))
    for name, weights in (("depthwise", depthwise), ("pointwise", pointwise)):
        for b, weight in enumerate(weights):
            check_tensor(f"{where}: {name}[{b}]", weight)
            channels = depthwise[0].size(0) if depthwise[0].dim() else 0
            kernel = weight.shape[-1] if weight.dim() == 4 else 0
            shape = (channels, 1, kernel, kernel) if name == "depthwise" else (channels, channels, 1, 1)
            check_like(f"{where}: {name}[{b}]", weight, shape, *FLOATS)
            if 0 in shape:
                raise ValueError(f"{where}: {name}[{b}] must have elements, got shape {tuple(weight.shape)}")


def _check_norms(where: str, depthwise: list[Tensor], **tables: Tensor | None) -> None:
    branches, channels = len(depthwise), depthwise[0].size(0)
    given = {name: table for name, table in tables.items() if table is not None}
    if given and not {"mean", "rstd"}.issubset(given):
        raise ValueError(f"{where}: {', '.join(given)} must come with mean and rstd")
    for name, table in given.items():
        wide = name in ("mean", "rstd")
        rows = max(branches, table.shape[0] if wide and table.dim() else 0)
        check_like(f"{where}: {name}", table, (rows, channels), *(WIDE[1:] if wide else FLOATS))


def _fwd_fake(*args: Any) -> Any:
    call = _Forward(*args)
    x, plan, channels = call.xs[0], call.plan(), call.xs[0].shape[1]
    acc = accumulation_dtype(x.dtype)
    shape = (len(plan.kernels), channels) if call.statistics else (0,)
    return (
        [empty_channels_last(x, plan.out_shape(x)) for _ in plan.kernels],
        x.new_empty(sum(plan.rows), channels, dtype=acc),
        x.new_empty(len(plan.kernels), channels, channels, dtype=acc),
        x.new_empty(shape, dtype=torch.float64),
        x.new_empty(shape, dtype=torch.float64),
        [empty_channels_last(x, plan.out_shape(x)) for _ in plan.kernels] if keeps("stage", x, call) else [],
    )


class _Backward(NamedTuple):
    """The arguments of the registered operator."""

    grads: list[Tensor | None]
    zs: list[Tensor | None]
    tables: Tensor
    xs: list[Tensor]
    params: Tensor
    matrices: Tensor
    depthwise: list[Tensor]
    pointwise: list[Tensor]
    mean: Tensor | None
    rstd: Tensor | None
    gamma: Tensor | None
    alive: Tensor | None
    """Of every branch the weight, or whether it has one: a branch is dead where this is 0."""
    dilations: list[int]
    stride: int
    need_x: list[bool]
    need_depthwise: list[bool]
    need_pointwise: list[bool]
    need_sums: bool
    ys: list[Tensor | None]
    """The depthwise outputs; nothing, or None for some, where they are not kept."""

    def plan(self) -> DepthwisePlan:
        """The plan of the convolutions."""
        return _plan(self.depthwise, len(self.xs), self.dilations, self.stride, self.mean is not None)


def _bwd(*args: Any) -> Any:
    call = _Backward(*args)
    x = call.xs[0]
    kept = [call.ys] if call.ys and keeps("stage", x, call) else []
    return registry.select("stage", x).backward(*call[:12], call.plan().within(x), *call[14:-1], *kept)


def _check_bwd(*args: Any) -> None:
    where, call = "stage_bwd", _Backward(*args)
    check_weights(where, call.depthwise, call.pointwise)
    _check_norms(where, call.depthwise, mean=call.mean, rstd=call.rstd, gamma=call.gamma)
    plan, branches = call.plan(), len(call.depthwise)
    rows = _check_images(where, call.xs, call.depthwise, plan)
    x, channels, acc = call.xs[0], call.xs[0].shape[1], accumulation_dtype(call.xs[0].dtype)
    check_like(f"{where}: params", call.params, (rows, channels), acc)
    check_like(f"{where}: matrices", call.matrices, (branches, channels, channels), acc)
    check_all_like(f"{where}: grads", call.grads, branches, plan.out_shape(x), x.dtype)
    check_all_like(f"{where}: zs", call.zs, branches, plan.out_shape(x), x.dtype)
    check_all_like(f"{where}: ys", call.ys, branches if call.ys else 0, plan.out_shape(x), x.dtype)
    check_like(f"{where}: tables", call.tables, (max(branches, len(call.tables)), 4, channels), acc)
    for name in ("need_depthwise", "need_pointwise"):
        check_length(f"{where}: {name}", getattr(call, name), branches, branches)
    check_needs(where, plan, call.need_x, call.need_sums)
    check_like(f"{where}: alive", call.alive, (branches,), torch.bool, *WIDE)


def _bwd_fake(*args: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
    call = _Backward(*args)
    s0 = call.params.new_empty(len(call.depthwise) if call.mean is not None else 0, call.xs[0].shape[1]).double()
    return (
        [empty_channels_last(x, x.shape) for x, need in zip(call.xs, call.need_x, strict=True) if need],
        [torch.empty_like(w) for w, need in zip(call.depthwise, call.need_depthwise, strict=True) if need],
        [torch.empty_like(w) for w, need in zip(call.pointwise, call.need_pointwise, strict=True) if need],
        s0,
        torch.empty_like(s0),
        call.tables.new_empty(0) if call.mean is None else torch.empty_like(call.tables),
    )


stage_fwd = define(
    "stage_fwd(Tensor[] xs, Tensor[] depthwise, Tensor[] pointwise, Tensor? mean, Tensor? rstd, Tensor? gamma, "
    "Tensor? beta, int[] dilations, int stride, bool statistics) "
    "-> (Tensor[], Tensor, Tensor, Tensor, Tensor, Tensor[])",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
stage_bwd = define(
    "stage_bwd(Tensor?[] grads, Tensor?[] zs, Tensor tables, Tensor[] xs, Tensor params, Tensor matrices, "
    "Tensor[] depthwise, Tensor[] pointwise, Tensor? mean, Tensor? rstd, Tensor? gamma, Tensor? alive, "
    "int[] dilations, int stride, bool[] need_x, bool[] need_depthwise, bool[] need_pointwise, bool need_sums, "
    "Tensor?[] ys) "
    "-> (Tensor[], Tensor[], Tensor[], Tensor, Tensor, Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
