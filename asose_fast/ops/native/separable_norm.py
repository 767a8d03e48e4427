"""`separable_norm` on the compiled kernels (csrc/separable_norm.h): a call a direction, by a plan made once a shape."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.layout import dense
from asose_fast.ops.library import present
from asose_fast.ops.native import DTYPE_CODES, address, addresses, memory, one_norm
from asose_fast.ops.native.multi_depthwise import DTYPES
from asose_fast.ops.native.strided_weights import known, strided
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import separable_norm as reference
from asose_fast.ops.separable_norm_call import Backward, Forward, Gradients
from asose_fast.ops.separable_norm_call import strided as shape_of

__all__ = ["DTYPES", "Bound", "backward", "bound", "forward"]


def forward(call: Forward) -> tuple[Tensor, Tensor, Tensor]:
    """y, `Backward.zs`, and mean and rstd that these normalise by, (S, 2, C) float64."""
    norms = [norm for norm in map(one_norm.readable, call.norms) if norm is not None]
    if not call.x.numel() or len(norms) < len(call.depthwise):
        return reference.forward(call)
    return Bound(call, norms).forward(dense(call.x), None if call.shortcut is None else dense(call.shortcut))


def backward(call: Backward) -> Gradients:
    """The gradients (`asose_fast.ops.separable_norm_call.Gradients`)."""
    if not call.x.numel():
        return reference.backward(call)
    shortcut = None if call.shortcut is None else dense(call.shortcut)
    of_x, of_shortcut, of_gain, *of_stages = Bound(call, []).backward(
        dense(call.grad), dense(call.x), shortcut, dense(call.zs), call.tables.contiguous(), call[13:]
    )
    of_x, of_shortcut, of_gain = (call.grad.new_empty(0) if t is None else t for t in (of_x, of_shortcut, of_gain))
    return Gradients(of_x, of_shortcut, of_gain, *map(present, of_stages))


def bound(call: Forward) -> Bound | None:
    """The call, for other x and shortcuts of the same kind; None where parameters are not read where they lie."""
    given = call.norms
    norms = [norm for norm in map(one_norm.readable, given) if norm is not None]
    weights = [*call.depthwise, *call.pointwise]
    if not call.x.numel() or any(w.dtype not in DTYPES for w in weights) or not all(map(is_, norms, given)):
        return None
    return Bound(call, norms) if len(norms) == len(given) else None


class Bound:
    """A call but for x and the shortcut, which are dense: what the kernels are given of all else."""

    def __init__(self, call: Forward | Backward, norms: Sequence[OneNorm]) -> None:
        """`norms`, `readable` ones, are for forward passes."""
        self._like = call.depthwise, call.pointwise
        self._weights = known(call.depthwise), known(call.pointwise)
        self._given = [strided(weights) for weights in self._weights]
        self._norms = one_norm.of_several(norms) if norms else None
        self._affine = [one_norm.Affine(*pair) for pair in zip(call.gamma, call.beta, strict=True)]
        self._of_batch, self._gain, self._of_gain = call.of_batch, call.gain, address(call.gain)
        shape = call.x.shape
        self._stages, self._tables = len(self._affine), (len(self._affine), 2, shape[1])
        self._y = shape_of(shape, call.stride)
        self._zs = self._stages * self._y[0], *self._y[1:]
        sides = tuple([w.shape[-1] for w in call.depthwise])
        self._kind = call.x.dtype, shape, sides, tuple(call.dilations), call.stride

    def forward(self, x: Tensor, shortcut: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """As above."""
        assert self._norms is not None
        plan = _plan(*self._kind, torch.get_num_threads())
        y, zs = memory.empty(self._y, x), memory.empty(self._zs, x)
        tables = torch.empty(self._tables, dtype=torch.float64)
        held, (room,) = memory.workspace(plan.forward_bytes)
        at_x = x.data_ptr()
        plan.kernels.forward(
            *self._given, *self._norms,
            [at_x, at_x if shortcut is None else shortcut.data_ptr(), self._of_gain, tables.data_ptr(), y.data_ptr(),
             room, *_rows(zs, self._stages)],
        )  # fmt: skip
        del held
        return y, zs, tables

    def backward(
        self, grad: Tensor, x: Tensor, shortcut: Tensor | None, zs: Tensor, tables: Tensor, needs: Sequence[Any]
    ) -> tuple[Any, ...]:
        """The gradients of x, shortcut and gain, and lists with those of the stages: of depthwise weights, pointwise
        weights, gammas and betas. None stands for those that are not needed; `needs` are as in `Backward`."""
        need_x, need_shortcut, need_gain, need_depthwise, need_pointwise, need_affine = needs
        plan, gain = _plan(*self._kind, torch.get_num_threads()), self._gain
        dead = gain is not None and gain.item() == 0
        grad_x = memory.empty(x.shape, x) if need_x else None
        if dead and grad_x is not None:
            grad_x.zero_()
        grad_shortcut = memory.empty(self._y, x) if shortcut is not None and need_shortcut else None
        grad_gain = torch.empty_like(gain) if gain is not None and need_gain else None
        new = torch.zeros_like if dead else torch.empty_like
        of_weights = [
            [new(w) if need else None for w, need in zip(*of_kind, strict=True)]
            for of_kind in zip(self._weights, (need_depthwise, need_pointwise), strict=True)
        ]
        of_affine = [affine.gradients(need) for affine, need in zip(self._affine, need_affine, strict=True)]
        of_norms = [affine.arguments(found) for affine, found in zip(self._affine, of_affine, strict=True)]
        held, (room,) = memory.workspace(plan.backward_bytes)
        tensors = grad, x, x if shortcut is None else shortcut, gain, tables, grad_x, grad_shortcut, grad_gain
        plan.kernels.backward(
            *self._given, *map(strided, self._weights, of_weights), [t for tables, _ in of_norms for t in tables],
            [d for _, dtypes in of_norms for d in dtypes], self._of_batch, gain is not None and shortcut is None,
            [*addresses(tensors), room, *_rows(zs, self._stages)],
        )  # fmt: skip
        del held
        of_depthwise, of_pointwise = (
            [None if g is None else g.to(w.dtype) for g, w in zip(gs, ws, strict=True)]
            for gs, ws in zip(of_weights, self._like, strict=True)
        )
        found = [affine.found(gradients) for affine, gradients in zip(self._affine, of_affine, strict=True)]
        of_gamma, of_beta = zip(*found, strict=True)
        return grad_x, grad_shortcut, grad_gain, of_depthwise, of_pointwise, of_gamma, of_beta


def _rows(zs: Tensor, stages: int) -> list[int]:
    """The addresses of the outputs of the stages."""
    base, step = address(zs), zs.nbytes // stages
    return [base + s * step for s in range(stages)]


class _Plan(NamedTuple):
    """What calls of a shape have in common."""

    kernels: Any
    forward_bytes: int
    """Of the workspace; those of `backward_bytes` are for a backward pass."""
    backward_bytes: int


@functools.lru_cache(maxsize=1024)
def _plan(
    dtype: torch.dtype,
    shape: torch.Size,
    sides: Sequence[int],
    dilations: Sequence[int],
    stride: int,
    threads: int,
) -> _Plan:
    # A dilation as long as an image leaves the middle tap alone, as any longer one does.
    longest = max(shape[2:])
    within = [min(dilation, longest) for dilation in dilations]
    kernels = _native.kernels("cpu").SeparableNormPlan(DTYPE_CODES[dtype], shape, sides, within, stride, threads)
    return _Plan(kernels, kernels.forward_bytes, kernels.backward_bytes)
