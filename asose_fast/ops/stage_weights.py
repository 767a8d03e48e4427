"""The weights of a mixed layer's stages as `separable` takes them, and their gradients as the parameters have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.checks import check_length, check_like, check_tensor
from asose_fast.ops.depthwise_plan import MAX_BRANCHES
from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.library import define

registry.register(
    "stage_weights",
    {
        "reference": "asose_fast.ops.reference.stage_weights",
        "cpu": "asose_fast.ops.native.stage_weights",
        "triton": "asose_fast.ops.triton.stage_weights",
    },
    small=True,
)
WIDE = (torch.float32, torch.float64)


def _rows(depthwise: Sequence[Tensor], mean: Tensor | None) -> int:
    return sum(w.size(2) * w.size(3) for w in depthwise) + (0 if mean is None else 2 * len(depthwise))


def _fwd(depthwise: list[Tensor], *rest: Any) -> Any:
    return registry.select("stage_weights", depthwise[0]).forward(depthwise, *rest)


def _check_fwd(
    depthwise: list[Tensor],
    pointwise: list[Tensor],
    mean: Tensor | None,
    rstd: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    dtype: torch.dtype,
) -> None:
    _check_weights("stage_weights_fwd", depthwise, pointwise)
    _check_norms("stage_weights_fwd", depthwise, mean=mean, rstd=rstd, gamma=gamma, beta=beta)
    if dtype not in WIDE:
        raise TypeError(f"stage_weights_fwd: dtype must be float32 or float64, got {dtype}")


def _check_weights(where: str, depthwise: list[Tensor], pointwise: list[Tensor]) -> None:
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


def _fwd_fake(depthwise: list[Tensor], pointwise: list[Tensor], mean: Tensor | None, *rest: Any) -> Any:
    *_, dtype = rest
    channels = depthwise[0].size(0)
    return (
        depthwise[0].new_empty(_rows(depthwise, mean), channels, dtype=dtype),
        depthwise[0].new_empty(len(depthwise), channels, channels, dtype=dtype),
    )


class _Backward(NamedTuple):
    """The arguments of the registered operator."""

    grad_params: Tensor
    grad_matrices: Tensor
    depthwise: list[Tensor]
    pointwise: list[Tensor]
    mean: Tensor | None
    rstd: Tensor | None
    gamma: Tensor | None
    alive: Tensor | None
    used: list[bool]
    need_depthwise: list[bool]
    need_pointwise: list[bool]
    has_sums: bool
    pixels: int


def _bwd(*args: Any) -> Any:
    return registry.select("stage_weights", args[0]).backward(*args)


def _check_bwd(*args: Any) -> None:
    where, call = "stage_weights_bwd", _Backward(*args)
    _check_weights(where, call.depthwise, call.pointwise)
    _check_norms(where, call.depthwise, mean=call.mean, rstd=call.rstd, gamma=call.gamma)
    branches, channels = len(call.depthwise), call.depthwise[0].size(0)
    for name in ("used", "need_depthwise", "need_pointwise"):
        check_length(f"{where}: {name}", getattr(call, name), branches, branches)
    if call.has_sums and call.mean is None:
        raise ValueError(f"{where}: has_sums must be False without norms")
    read = any(call.need_depthwise) or call.has_sums
    rows = (_rows(call.depthwise, call.mean), channels)
    check_like(f"{where}: grad_params", call.grad_params, rows if read else call.grad_params.shape, *WIDE)
    matrices = (branches, channels, channels) if any(call.need_pointwise) else call.grad_matrices.shape
    check_like(f"{where}: grad_matrices", call.grad_matrices, matrices, call.grad_params.dtype)
    check_like(f"{where}: alive", call.alive, (branches,), torch.bool)


def _bwd_fake(*args: Any) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
    call = _Backward(*args)
    shape = 0 if call.mean is None else len(call.used), call.depthwise[0].size(0)
    s0 = call.grad_params.new_empty(shape, dtype=torch.float64)
    return (
        [torch.empty_like(w) for w, need in zip(call.depthwise, call.need_depthwise, strict=True) if need],
        [torch.empty_like(w) for w, need in zip(call.pointwise, call.need_pointwise, strict=True) if need],
        s0,
        torch.empty_like(s0),
        call.grad_params.new_empty(shape[0], 4, shape[1]),
    )


stage_weights_fwd = define(
    "stage_weights_fwd(Tensor[] depthwise, Tensor[] pointwise, Tensor? mean, Tensor? rstd, Tensor? gamma, "
    "Tensor? beta, ScalarType dtype) -> (Tensor, Tensor)",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
stage_weights_bwd = define(
    "stage_weights_bwd(Tensor grad_params, Tensor grad_matrices, Tensor[] depthwise, Tensor[] pointwise, Tensor? mean, "
    "Tensor? rstd, Tensor? gamma, Tensor? alive, bool[] used, bool[] need_depthwise, bool[] need_pointwise, "
    "bool has_sums, int pixels) -> (Tensor[], Tensor[], Tensor, Tensor, Tensor)",
    _bwd,
    _bwd_fake,
    _check_bwd,
)
