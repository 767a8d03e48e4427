"""What the depthwise operators compute, apart from their tensors, and what must hold of it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast.ops.checks import (
    check_all_like,
    check_images,
    check_integer,
    check_length,
    check_like,
    check_stride,
)
from asose_fast.ops.dtypes import FLOATS, accumulation_dtype

MAX_BRANCHES = 32
PLAN = "int[] kernels, int[] dilations, int inputs, int stride, bool relu, bool affine"
"""The plan in the schema of a registered operator."""


class DepthwisePlan(NamedTuple):
    """What the operator computes, apart from its tensors."""

    kernels: tuple[int, ...]
    """Each is odd, and branch b pads by dilation * (kernel - 1) / 2."""
    dilations: tuple[int, ...]
    inputs: int
    """There is 1 that all branches share, or one a branch."""
    stride: int
    relu: bool
    affine: bool

    @property
    def taps(self) -> list[int]:
        """The number of taps of every branch."""
        return [k * k for k in self.kernels]

    @property
    def rows(self) -> list[int]:
        """Rows of params: the taps of every branch, then, where affine, the scales and the shifts of the inputs."""
        return [*self.taps, self.inputs, self.inputs] if self.affine else self.taps

    def pad(self, branch: int) -> int:
        """Zeros around the input of a branch."""
        return self.dilations[branch] * (self.kernels[branch] - 1) // 2

    def within(self, x: Tensor) -> DepthwisePlan:
        """The plan for the images of x. A dilation as long as they are leaves the middle tap alone, as any longer one
        does, which would be too long to count with."""
        longest = max(x.size(2), x.size(3))
        if max(self.dilations) <= longest:
            return self
        return self._replace(dilations=tuple(min(dilation, longest) for dilation in self.dilations))

    def out_shape(self, x: Tensor) -> tuple[int, ...]:
        """(N, C, ceil(H / stride), ceil(W / stride))."""
        n, c, height, width = x.shape
        step = self.stride
        return n, c, (height - 1) // step + 1, (width - 1) // step + 1


def plan_of(values: Sequence[Any]) -> DepthwisePlan:
    """The plan that the values of a registered operator stand for."""
    kernels, dilations, *rest = values
    return DepthwisePlan(tuple(kernels), tuple(dilations), *rest)


def check_branch(b: int, kernel: int, dilation: int) -> None:
    if kernel % 2 == 0:
        raise ValueError(f"multi_depthwise: depthwise[{b}] must have an odd kernel size, got {kernel}")
    check_integer(f"multi_depthwise: dilations[{b}]", dilation)
    if dilation < 1:
        raise ValueError(f"multi_depthwise: dilations[{b}] must be positive, got {dilation}")
    if dilation * (kernel - 1) // 2 > 2**63 - 1:  # 2^63 itself is beyond what torch.jit.trace compares a size with
        raise ValueError(
            f"multi_depthwise: dilations[{b}] = {dilation} pads a kernel of {kernel} by 2^63 pixels or more"
        )


def check_plan(where: str, xs: list[Tensor], params: Tensor, plan: DepthwisePlan) -> None:
    """Raises TypeError or ValueError unless xs and params are those of a plan that can be."""
    shape = check_inputs(where, xs, plan), xs[0].shape[1]
    acc = accumulation_dtype(xs[0].dtype)
    if params.shape != shape or params.dtype is not acc:
        check_like(f"{where}: params", params, shape, acc)


def check_inputs(where: str, xs: list[Tensor], plan: DepthwisePlan) -> int:
    """Raises TypeError or ValueError unless xs are those of a plan that can be; the rows of its params."""
    try:
        rows = _rows(where, plan)
    except TypeError:  # what stands for an integer in a graph cannot be looked up, and what is none is told here
        rows = _rows.__wrapped__(where, plan)
    if len(xs) != plan.inputs:
        check_length(f"{where}: xs", xs, plan.inputs, plan.inputs)
    x = xs[0]
    shape, dtype = x.shape, x.dtype
    if x.layout is not torch.strided or dtype not in FLOATS or len(shape) != 4 or 0 in shape[1:]:
        check_images(f"{where}: xs[0]", x)
    if len(xs) > 1:
        check_all_like(f"{where}: xs", xs, len(xs), shape, dtype)
    return rows


@functools.lru_cache(maxsize=1024)
def _rows(where: str, plan: DepthwisePlan) -> int:
    """Rows of params. Raises TypeError or ValueError unless the plan can be: looked up in every step, found once."""
    check_length(f"{where}: kernels", plan.kernels, 1, MAX_BRANCHES)
    branches = len(plan.kernels)
    check_length(f"{where}: dilations", plan.dilations, branches, branches)
    for b, (kernel, dilation) in enumerate(zip(plan.kernels, plan.dilations, strict=True)):
        if kernel < 1:
            raise ValueError(f"{where}: kernels[{b}] must be positive, got {kernel}")
        check_branch(b, kernel, dilation)
    check_stride(f"{where}: stride", plan.stride)
    if plan.inputs not in (1, branches):
        raise ValueError(f"{where}: inputs must be 1 or as many as kernels, {branches}, got {plan.inputs}")
    return sum(plan.rows)


def check_needs(where: str, plan: DepthwisePlan, need_x: list[bool], need_affine: bool) -> None:
    """Raises ValueError unless what is needed is there."""
    if len(need_x) != plan.inputs:
        check_length(f"{where}: need_x", need_x, plan.inputs, plan.inputs)
    if need_affine and not plan.affine:
        raise ValueError(f"{where}: need_affine must be False without an affine map")


def pack(depthwise: Sequence[Tensor], affine: Sequence[Tensor], inputs: int, dtype: torch.dtype) -> Tensor:
    """The operator's params: `DepthwisePlan.rows` rows of C."""
    columns = [w.flatten(1) for w in depthwise] + [a.reshape(inputs, -1).t() for a in affine]
    rows = (columns[0] if len(columns) == 1 else torch.cat(columns, 1)).t()
    return rows.to(dtype, memory_format=torch.contiguous_format).contiguous()


def unpack(params: Tensor, plan: DepthwisePlan) -> list[Tensor]:
    """The weights of every branch, (C, 1, k, k), then, where affine, the scales and the shifts, (inputs, C)."""
    pieces = list(params.split_with_sizes(plan.rows))
    depthwise = [p.t().reshape(-1, 1, k, k) for p, k in zip(pieces, plan.kernels, strict=False)]
    return depthwise + pieces[len(depthwise) :]


def pack_pointwise(pointwise: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """(B, C, C): of every branch, output channel by input channel."""
    rows = [w.flatten(1) for w in pointwise]
    return torch.stack(rows).to(dtype)
