"""`norm_relu_mean` on the compiled kernels (csrc/norm_relu_mean.h)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense, memory_format
from asose_fast.ops.native import DTYPE_CODES, address, memory
from asose_fast.ops.native.channels import channel_space, groups
from asose_fast.ops.native.launches import launch
from asose_fast.ops.native.one_norm import Gradients, forward_arguments, readable
from asose_fast.ops.native.script import NOTHING, ROOM, Bound, Launch, Place, Places
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import norm_relu_mean as reference

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(x: Tensor, norm: OneNorm) -> tuple[Tensor, Tensor, Tensor]:
    """y, and what backward knows the norm by (`asose_fast.ops.reference.norm_relu_mean.forward`)."""
    if x.numel() == 0 or (given := readable(norm)) is None:
        return reference.forward(x, norm)
    format, (images, channels, *_) = memory_format(x), x.shape
    x, plan = dense(x, format), _plan_of(x, format, norm.of_batch)
    y = torch.empty(images, channels, dtype=x.dtype)
    tables = torch.empty(2, channels, dtype=torch.float64)
    active = torch.empty(2, images, channels, dtype=torch.float64)
    held, (partials, statistics, scratch) = memory.workspace(*plan.forward_sizes)
    mean = address(tables)
    launch(
        plan.kernels.forward,
        *forward_arguments(given),
        [address(x), partials, statistics, mean, mean + plan.row, address(active), scratch, address(y)],
        torch.get_num_threads(),
    )
    del held
    return y, tables, active


def backward(
    grad: Tensor,
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    tables: Tensor,
    active: Tensor,
    of_batch: bool,
    need_x: bool,
    need_affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients (`asose_fast.ops.reference.norm_relu_mean.backward`)."""
    if x.numel() == 0:
        return reference.backward(grad, x, gamma, beta, tables, active, of_batch, need_x, need_affine)
    format = memory_format(x)
    x, grad, tables, active = dense(x, format), grad.contiguous(), tables.contiguous(), active.contiguous()
    plan, mean = _plan_of(x, format, of_batch), address(tables)
    held, room = memory.workspace(*plan.backward_sizes)
    grad_x = memory.empty(x.shape, x, format) if need_x else None
    affine = Gradients(gamma, beta, need_affine)
    launch(
        plan.kernels.backward,
        *affine.arguments(), of_batch,
        [address(x), address(grad), mean, mean + plan.row, address(active), *room, address(grad_x)],
        torch.get_num_threads(),
    )  # fmt: skip
    del held
    return x.new_empty(0) if grad_x is None else grad_x, *affine.found(x)


def bound(x: Tensor, norm: OneNorm) -> Bound | None:
    """The call as part of a script; None where x and the parameters are not as the kernels read them."""
    fits = x.numel() and x.is_contiguous(memory_format=torch.channels_last)
    return _Bound(x, norm) if fits and readable(norm) is norm else None


class _Bound(Bound):
    """In a script."""

    inputs = 1

    def __init__(self, x: Tensor, norm: OneNorm) -> None:
        self._norm, self._of_batch = forward_arguments(norm), norm.of_batch
        self._affine = [Place(0, address(t)) for t in (norm.gamma, norm.beta)]
        self._plan = _plan_of(x, memory_format(x), norm.of_batch)
        self.plan = lambda threads: self._plan
        images, channels = self.y = tuple(x.shape[:2])
        self.saved = ((2, channels), torch.float64), ((2, images, channels), torch.float64)

    def forward(self, values: Sequence[Place], y: Place, saved: Sequence[Place], threads: int) -> Launch:
        """As `forward` above."""
        (x,), (mean, active), plan = values, saved, self._plan
        partials, statistics, scratch = _in_room(plan.forward_sizes)
        places = Places((x, partials, statistics, mean, _after(mean, plan.row), active, scratch, y))
        return plan.kernels.forward, (*self._norm, places, threads)

    def backward(
        self, grad: Place, values: Sequence[Place], saved: Sequence[Place], to: Sequence[Place], threads: int
    ) -> Launch:
        """As `backward` above."""
        (x,), (mean, active), plan = values, saved, self._plan
        _, _, of_x, of_gamma, of_beta = to
        places = Places((x, grad, mean, _after(mean, plan.row), active, *_in_room(plan.backward_sizes), of_x))
        affine = Places((*self._affine, of_gamma, of_beta))
        return plan.kernels.backward, (affine, self._norm[1][1:], self._of_batch, places, threads)


def _after(place: Place, size: int) -> Place:
    return place._replace(offset=place.offset + size)


def _in_room(sizes: tuple[int, ...]) -> list[Place]:
    """The places of arrays in the workspace of a script."""
    return [NOTHING if start is None else _after(ROOM, start) for start in memory.places(sizes)[0]]


class _Kernels(NamedTuple):
    """Those of a shape."""

    forward: Callable[..., None]
    backward: Callable[..., None]


class _Plan(NamedTuple):
    """What calls of a shape have in common."""

    kernels: _Kernels
    row: int
    """The bytes of a table of channels in float64."""
    forward_sizes: tuple[int, ...]
    """Of the arrays of the workspace: partial sums, statistics of the batch, tables."""
    backward_sizes: tuple[int, ...]
    """Likewise: sums, and tables of what the gradients are."""

    @property
    def forward_bytes(self) -> int:
        """Of the workspace; those of `backward_bytes` are for a backward pass."""
        return memory.places(self.forward_sizes)[1]

    @property
    def backward_bytes(self) -> int:
        """As above."""
        return memory.places(self.backward_sizes)[1]


def _plan_of(x: Tensor, format: torch.memory_format, of_batch: bool) -> _Plan:
    return _plan(x.dtype, x.shape[0], channel_space(x, format), of_batch)


@functools.lru_cache(maxsize=1024)
def _plan(dtype: torch.dtype, images: int, space: tuple[int, int, int], of_batch: bool) -> _Plan:
    kernels, given = _native.kernels("cpu"), (DTYPE_CODES[dtype], images, *space)
    both = (kernels.norm_relu_mean_forward, kernels.norm_relu_mean_backward)
    row, width = 8 * space[1], accumulation_dtype(dtype).itemsize * space[1]
    return _Plan(
        _Kernels(*(functools.partial(kernel, *given) for kernel in both)),
        row,
        (2 * row * groups(space) * of_batch, 2 * row * of_batch, 3 * row),
        (2 * row, (5 + images) * width),
    )
