"""`conv_norm` on the compiled kernels (csrc/conv_norm.h): a call a direction, by a plan that is made once a shape."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.by_result import RESULTS
from asose_fast.ops.conv_norm_call import Backward, Forward
from asose_fast.ops.dense import Dense
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense
from asose_fast.ops.native import DTYPE_CODES, address, addresses, dense_conv, memory
from asose_fast.ops.native.one_norm import Affine, forward_arguments, readable
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import conv_norm as in_turn
from asose_fast.ops.reference.norm_pool import pooled

DTYPES = dense_conv.DTYPES


def unfit(shape: Sequence[int], dtype: torch.dtype, weight: Sequence[int], conv: Dense) -> str | None:
    """It is left to the operators one by one where one of the convolution's results is."""
    reasons = (dense_conv.unfit(shape, dtype, weight, conv, result) for result in RESULTS)
    return next((reason for reason in reasons if reason), None)


def forward(call: Forward) -> tuple[Tensor, Tensor, Tensor]:
    """y, the output of the convolution, and mean and rstd that the norm normalises by, (2, C) float64."""
    if not call.x.numel() or (norm := readable(call.norm)) is None:
        return in_turn.forward(call)
    shortcut = None if call.shortcut is None else dense(call.shortcut)
    return Bound(call, norm).forward(dense(call.x), shortcut)


def backward(call: Backward) -> tuple[Tensor, ...]:
    """The gradients of x, weight, shortcut, gain, gamma and beta, empty where they are not needed."""
    if not call.x.numel() or (call.need_x and call.conv.stride != (1, 1)):
        return in_turn.backward(call)
    shortcut = None if call.shortcut is None else dense(call.shortcut)
    found = Bound(call, None).backward(
        dense(call.grad), dense(call.x), dense(call.z), shortcut, call.tables.contiguous(), call[14:]
    )
    return tuple([call.grad.new_empty(0) if t is None else t for t in found])


def bound(call: Forward) -> Bound | None:
    """The call, for other x and shortcuts of the same kind; None where parameters are not read where they lie."""
    given = call.norm
    norm = readable(given)
    if (
        not call.x.numel()
        or norm is not given
        or call.weight.dtype != accumulation_dtype(call.x.dtype)
        or call.conv.stride != (1, 1)
    ):
        return None
    return Bound(call, norm)


class Bound:
    """A call but for x and the shortcut, which are dense: what the kernels are given of all else."""

    def __init__(self, call: Forward | Backward, norm: OneNorm | None) -> None:
        """`norm`, a `readable` one, is for forward passes."""
        x, self._like, self._gain = call.x, call.weight, call.gain
        self._taps = self._like.to(accumulation_dtype(x.dtype))
        self._strides, self._at = self._taps.stride(), self._taps.data_ptr()
        self._of_gain = address(call.gain)
        self._norm = None if norm is None else forward_arguments(norm)
        self._affine, self._of_batch = Affine(call.gamma, call.beta), call.of_batch
        self._kind = x.dtype, x.shape, self._taps.shape, call.conv, call.pool, call.gain is not None

    def forward(self, x: Tensor, shortcut: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """As above."""
        assert self._norm is not None
        plan = _plan(*self._kind, torch.get_num_threads())
        z, y = memory.empty(plan.z, x), memory.empty(plan.y, x)
        tables = torch.empty(2, plan.z[1], dtype=torch.float64)
        held, (room,) = memory.workspace(plan.forward_bytes)
        plan.kernels.forward(
            self._strides, *self._norm,
            [x.data_ptr(), self._at, address(shortcut), self._of_gain, z.data_ptr(), tables.data_ptr(), y.data_ptr(),
             room],
        )  # fmt: skip
        del held
        return y, z, tables

    def backward(
        self, grad: Tensor, x: Tensor, z: Tensor, shortcut: Tensor | None, tables: Tensor, needs: Sequence[bool]
    ) -> tuple[Tensor | None, ...]:
        """The gradients, None for those that are not needed; `needs` as in `Backward`."""
        need_x, need_weight, need_shortcut, need_gain, need_affine = needs
        plan, taps = _plan(*self._kind, torch.get_num_threads()), self._taps
        grad_x = memory.empty(x.shape, x) if need_x else None
        grad_taps = torch.empty_like(taps) if need_weight else None
        grad_shortcut = memory.empty(plan.z, x) if need_shortcut else None
        grad_gain = None if self._gain is None or not need_gain else torch.empty_like(self._gain)
        of_affine = self._affine.gradients(need_affine)
        held, (room,) = memory.workspace(plan.backward_bytes)
        plan.kernels.backward(
            self._strides, self._strides if grad_taps is None else grad_taps.stride(),
            *self._affine.arguments(of_affine), self._of_batch,
            [grad.data_ptr(), x.data_ptr(), self._at, z.data_ptr(), address(shortcut), self._of_gain, tables.data_ptr(),
             *addresses((grad_x, grad_taps, grad_shortcut, grad_gain)), room],
        )  # fmt: skip
        del held
        grad_weight = None if grad_taps is None else grad_taps.to(self._like.dtype)
        return grad_x, grad_weight, grad_shortcut, grad_gain, *self._affine.found(of_affine)


class _Plan(NamedTuple):
    """What calls of a shape have in common."""

    kernels: Any
    z: tuple[int, ...]
    """The shape of the convolution's output."""
    y: tuple[int, ...]
    forward_bytes: int
    """Of the workspace; those of `backward_bytes` are for a backward pass."""
    backward_bytes: int


@functools.lru_cache(maxsize=1024)
def _plan(
    dtype: torch.dtype, shape: torch.Size, taps: torch.Size, conv: Dense, pool: int, blend: bool, threads: int
) -> _Plan:
    kernels = _native.kernels("cpu").ConvNormPlan(DTYPE_CODES[dtype], shape, taps, *conv, pool > 1, blend, threads)
    z = conv.shape_for(shape, taps)
    return _Plan(kernels, z, pooled(z, pool), kernels.forward_bytes, kernels.backward_bytes)
