"""`conv_norm` on the compiled kernels (csrc/conv_norm.h): a call a direction, by a plan that is made once a shape."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.conv_norm_call import Backward, Forward
from asose_fast.ops.dense import Dense
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense
from asose_fast.ops.native import DTYPE_CODES, addresses, dense_conv, memory
from asose_fast.ops.native.kernel_plan import KernelPlan
from asose_fast.ops.native.launches import launch
from asose_fast.ops.native.one_norm import Gradients, forward_arguments, readable
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
    wide = accumulation_dtype(call.x.dtype)
    x, taps, gain = dense(call.x), call.weight.to(wide), None if call.gain is None else call.gain.to(wide)
    plan = _plan(x.dtype, x.shape, taps.shape, call.conv, call.pool, gain is not None, torch.get_num_threads())
    z, y = (memory.empty(shape, x) for shape in plan.shapes)
    tables = torch.empty(2, taps.shape[0], dtype=torch.float64)
    shortcut = None if call.shortcut is None else dense(call.shortcut)
    held, room = memory.workspace(plan.forward_bytes)
    launch(
        plan.kernels.forward,
        taps.stride(),
        *forward_arguments(norm),
        [*addresses((x, taps, shortcut, gain, z, tables, y)), *room],
    )
    del held
    return y, z, tables


def backward(call: Backward) -> tuple[Tensor, ...]:
    """The gradients of x, weight, shortcut, gain, gamma and beta, empty where they are not needed."""
    if not call.x.numel():
        return in_turn.backward(call)
    x, z, grad, tables = dense(call.x), dense(call.z), dense(call.grad), call.tables.contiguous()
    wide = accumulation_dtype(x.dtype)
    taps, gain = call.weight.to(wide), None if call.gain is None else call.gain.to(wide)
    plan = _plan(x.dtype, x.shape, taps.shape, call.conv, call.pool, gain is not None, torch.get_num_threads())
    grad_x = memory.empty(x.shape, x) if call.need_x else None
    grad_taps = torch.empty_like(taps) if call.need_weight else None
    shortcut = None if call.shortcut is None else dense(call.shortcut)
    grad_shortcut = memory.empty(z.shape, z) if call.need_shortcut else None
    grad_gain = None if gain is None or not call.need_gain else torch.empty_like(gain)
    affine = Gradients(call.gamma, call.beta, call.need_affine)
    held, room = memory.workspace(plan.backward_bytes)
    tensors = grad, x, taps, z, shortcut, gain, tables, grad_x, grad_taps, grad_shortcut, grad_gain
    launch(
        plan.kernels.backward, taps.stride(), (taps if grad_taps is None else grad_taps).stride(),
        *affine.arguments(), call.of_batch, [*addresses(tensors), *room],
    )  # fmt: skip
    del held
    grad_weight = None if grad_taps is None else grad_taps.to(call.weight.dtype)
    if call.gain is not None and grad_gain is not None:
        grad_gain = grad_gain.to(call.gain.dtype)
    found = [grad.new_empty(0) if t is None else t for t in (grad_x, grad_weight, grad_shortcut, grad_gain)]
    return *found, *affine.found(grad)


@functools.lru_cache(maxsize=1024)
def _plan(
    dtype: torch.dtype, shape: torch.Size, taps: torch.Size, conv: Dense, pool: int, blend: bool, threads: int
) -> KernelPlan:
    kernels = _native.kernels("cpu").ConvNormPlan(DTYPE_CODES[dtype], shape, taps, *conv, pool > 1, blend, threads)
    z = conv.shape_for(shape, taps)
    return KernelPlan(kernels, (z, pooled(z, pool)), kernels.forward_bytes, kernels.backward_bytes)
