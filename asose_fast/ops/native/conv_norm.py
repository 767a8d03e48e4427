"""`conv_norm` on the compiled kernels (csrc/conv_norm.h): a call a direction, by a plan that is made once a shape."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.conv_norm_call import Backward, Forward
from asose_fast.ops.dense import Dense
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense
from asose_fast.ops.native import DTYPE_CODES, address, addresses, dense_conv, memory
from asose_fast.ops.native.launches import launch
from asose_fast.ops.native.one_norm import Gradients, forward_arguments, readable
from asose_fast.ops.native.script import NOTHING, ROOM, Bound, Launch, Place, Places
from asose_fast.ops.native.strided_weights import kept_order
from asose_fast.ops.norms import OneNorm
from asose_fast.ops.reference import conv_norm as in_turn
from asose_fast.ops.reference.norm_pool import pooled

DTYPES = dense_conv.DTYPES

PAIRS_A_PIXEL = 1 << 7
"""Pairs of an input and an output channel, for a pixel of all images each, up to which 1x1 kernels are not slower."""


def unfit(shape: Sequence[int], dtype: torch.dtype, weight: Sequence[int], conv: Dense) -> str | None:
    """1x1 kernels of stride 1 are taken while their weights are few beside the pixels: oneDNN's convolution is faster,
    but has passes of its own for the ReLU, its gradient and that of the norm. bfloat16 is left to oneDNN where the
    processor multiplies tiles of it (AMX). All else is left to the operators one by one where the convolution is."""
    outputs, inputs, *taps = weight
    if taps == [1, 1] and conv.stride == (1, 1) and not dense_conv.has_tiles(dtype):
        images, _, height, width = shape
        if outputs * inputs > PAIRS_A_PIXEL * images * height * width:
            return "oneDNN is faster where the weights are many beside the pixels"
        return None
    return dense_conv.unfit(shape, dtype, weight, conv)


def forward(call: Forward) -> tuple[Tensor, Tensor, Tensor]:
    """y, the output of the convolution, and mean and rstd that the norm normalises by, (2, C) float64."""
    if not call.x.numel() or (norm := readable(call.norm)) is None:
        return in_turn.forward(call)
    x, taps = dense(call.x), call.weight.to(accumulation_dtype(call.x.dtype))
    plan = _plan(x.dtype, x.shape, taps.shape, call.conv, call.pool, call.gain is not None, torch.get_num_threads())
    z, y = memory.empty(plan.z, x), memory.empty(plan.y, x)
    tables = torch.empty(2, taps.shape[0], dtype=torch.float64)
    shortcut = None if call.shortcut is None else dense(call.shortcut)
    held, room = memory.workspace(plan.forward_bytes)
    launch(
        plan.kernels.forward,
        taps.stride(),
        *forward_arguments(norm),
        [*addresses((x, taps, shortcut, call.gain, z, tables, y)), *room],
    )
    del held
    return y, z, tables


def backward(call: Backward) -> tuple[Tensor, ...]:
    """The gradients of x, weight, shortcut, gain, gamma and beta, empty where they are not needed."""
    if not call.x.numel():
        return in_turn.backward(call)
    x, z, grad, tables = dense(call.x), dense(call.z), dense(call.grad), call.tables.contiguous()
    taps = call.weight.to(accumulation_dtype(x.dtype))
    plan = _plan(x.dtype, x.shape, taps.shape, call.conv, call.pool, call.gain is not None, torch.get_num_threads())
    grad_x = memory.empty(x.shape, x) if call.need_x else None
    grad_taps = torch.empty_like(taps) if call.need_weight else None
    shortcut = None if call.shortcut is None else dense(call.shortcut)
    grad_shortcut = memory.empty(z.shape, z) if call.need_shortcut else None
    grad_gain = None if call.gain is None or not call.need_gain else torch.empty_like(call.gain)
    affine = Gradients(call.gamma, call.beta, call.need_affine)
    held, room = memory.workspace(plan.backward_bytes)
    tensors = grad, x, taps, z, shortcut, call.gain, tables, grad_x, grad_taps, grad_shortcut, grad_gain
    launch(
        plan.kernels.backward, taps.stride(), (taps if grad_taps is None else grad_taps).stride(),
        *affine.arguments(), call.of_batch, [*addresses(tensors), *room],
    )  # fmt: skip
    del held
    grad_weight = None if grad_taps is None else grad_taps.to(call.weight.dtype)
    found = [grad.new_empty(0) if t is None else t for t in (grad_x, grad_weight, grad_shortcut, grad_gain)]
    return *found, *affine.found(grad)


def bound(call: Forward) -> Bound | None:
    """The call as part of a script; None where parameters and gradients are not as the kernels read and write them."""
    norm, dtype = call.norm, accumulation_dtype(call.x.dtype)
    fits = call.x.numel() and call.weight.dtype == dtype == call.x.dtype and call.conv.stride == (1, 1)
    return _Bound(call, norm) if fits and readable(norm) is norm and kept_order(call.weight) else None


class _Bound(Bound):
    """In a script."""

    def __init__(self, call: Forward, norm: OneNorm) -> None:
        x, weight = call.x, call.weight
        self._strides, self._norm, self._of_batch = weight.stride(), forward_arguments(norm), norm.of_batch
        self._weight, self._gain = (Place(0, address(t)) for t in (weight, call.gain))
        self._affine = [Place(0, address(t)) for t in (norm.gamma, norm.beta)]
        self.plan = functools.partial(
            _plan, x.dtype, x.shape, weight.shape, call.conv, call.pool, call.gain is not None
        )
        self.inputs, z = 1 + (call.shortcut is not None), call.conv.shape_for(x.shape, weight.shape)
        self.y, self.saved = pooled(z, call.pool), ((z, x.dtype), ((2, z[1]), torch.float64))

    def forward(self, values: Sequence[Place], y: Place, saved: Sequence[Place], threads: int) -> Launch:
        """As `forward` above."""
        x, shortcut = (*values, NOTHING)[:2]
        places = Places((x, self._weight, shortcut, self._gain, *saved, y, ROOM))
        return self.plan(threads).kernels.forward, (self._strides, *self._norm, places)

    def backward(
        self, grad: Place, values: Sequence[Place], saved: Sequence[Place], to: Sequence[Place], threads: int
    ) -> Launch:
        """As `backward` above."""
        (x, shortcut), (z, tables) = (*values, NOTHING)[:2], saved
        _, of_x, of_weight, of_gamma, of_beta, of_shortcut, of_gain = to
        places = Places(
            (grad, x, self._weight, z, shortcut, self._gain, tables, of_x, of_weight, of_shortcut, of_gain, ROOM)
        )
        affine = Places((*self._affine, of_gamma, of_beta))
        fixed = self._strides, self._strides, affine, self._norm[1][1:], self._of_batch
        return self.plan(threads).kernels.backward, (*fixed, places)


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
