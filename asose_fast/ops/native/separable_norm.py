"""`separable_norm` on the compiled kernels (csrc/separable_norm.h): a call a direction, by a plan made once a shape."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense
from asose_fast.ops.native import DTYPE_CODES, address, addresses, memory, one_norm
from asose_fast.ops.native.kernel_plan import KernelPlan
from asose_fast.ops.native.launches import launch
from asose_fast.ops.native.multi_depthwise import DTYPES
from asose_fast.ops.native.strided_weights import known, strided
from asose_fast.ops.reference import separable_norm as reference
from asose_fast.ops.separable_norm_call import Backward, Forward, Gradients, none_kept
from asose_fast.ops.separable_norm_call import strided as shape_of

__all__ = ["DTYPES", "backward", "forward"]


def forward(call: Forward) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, and `zs`, `tables`, `ys` and `params` of `Backward`, the last two empty."""
    norms = [norm for norm in map(one_norm.readable, call.norms) if norm is not None]
    if not call.x.numel() or len(norms) < len(call.depthwise):
        return reference.forward(call)
    x, stages = dense(call.x), len(call.depthwise)
    plan = _plan_of(x, call)
    y, zs = (memory.empty(shape, x) for shape in plan.shapes)
    tables = torch.empty(stages, 2, x.shape[1], dtype=torch.float64)
    shortcut, gain = x if call.shortcut is None else dense(call.shortcut), _wide(call)
    of_tables, dtypes, of_batch, eps, momenta = one_norm.of_several(norms)
    held, room = memory.workspace(plan.forward_bytes)
    launch(
        plan.kernels.forward, strided(known(call.depthwise)), strided(known(call.pointwise)), of_tables, dtypes,
        of_batch, eps, momenta,
        [*addresses((x, shortcut, gain, tables, y)), *room, *_rows(zs, stages)],
    )  # fmt: skip
    del held
    return y, zs, tables, *none_kept(x)


def backward(call: Backward) -> Gradients:
    """The gradients (`asose_fast.ops.separable_norm_call.Gradients`)."""
    if not call.x.numel():
        return reference.backward(call)
    x, grad, zs, tables = dense(call.x), dense(call.grad), dense(call.zs), call.tables.contiguous()
    plan = _plan_of(x, call)
    grad_x = memory.empty(x.shape, x) if call.need_x else None
    grad_shortcut = memory.empty(grad.shape, grad) if call.shortcut is not None and call.need_shortcut else None
    gain = _wide(call)
    grad_gain = torch.empty_like(gain) if gain is not None and call.need_gain else None
    shortcut = x if call.shortcut is None else dense(call.shortcut)
    dead = gain is not None and gain.item() == 0
    weights, needs = [known(call.depthwise), known(call.pointwise)], [call.need_depthwise, call.need_pointwise]
    new = torch.zeros_like if dead else torch.empty_like
    found = [
        [new(w) if need else None for w, need in zip(*of_kind, strict=True)]
        for of_kind in zip(weights, needs, strict=True)
    ]
    if dead and grad_x is not None:
        grad_x.zero_()
    affine = [one_norm.Gradients(*norm) for norm in zip(call.gamma, call.beta, call.need_affine, strict=True)]
    of_affine = [norm.arguments() for norm in affine]
    held, room = memory.workspace(plan.backward_bytes)
    tensors = grad, x, shortcut, gain, tables, grad_x, grad_shortcut, grad_gain
    launch(
        plan.kernels.backward, *map(strided, weights), *map(strided, weights, found),
        [t for tables, _ in of_affine for t in tables], [d for _, dtypes in of_affine for d in dtypes], call.of_batch,
        gain is not None and call.shortcut is None,
        [*addresses(tensors), *room, *_rows(zs, len(call.depthwise))],
    )  # fmt: skip
    del held
    of_weights = [
        [g.to(w.dtype) for g, w in zip(gs, ws, strict=True) if g is not None]
        for gs, ws in zip(found, (call.depthwise, call.pointwise), strict=True)
    ]
    of_norms = [norm.found(grad) for norm in affine]
    of_gamma, of_beta = (
        [found[i] for found, t, need in zip(of_norms, tensors, call.need_affine, strict=True) if need and t is not None]
        for i, tensors in enumerate((call.gamma, call.beta))
    )
    if call.gain is not None and grad_gain is not None:
        grad_gain = grad_gain.to(call.gain.dtype)
    of_x, of_shortcut, of_gain = (grad.new_empty(0) if t is None else t for t in (grad_x, grad_shortcut, grad_gain))
    of_depthwise, of_pointwise = of_weights
    return Gradients(of_x, of_shortcut, of_gain, of_depthwise, of_pointwise, of_gamma, of_beta)


def _wide(call: Forward | Backward) -> Tensor | None:
    """The gain as the kernels read it."""
    return None if call.gain is None else call.gain.to(accumulation_dtype(call.x.dtype))


def _rows(zs: Tensor, stages: int) -> list[int]:
    """The addresses of the outputs of the stages."""
    base, step = address(zs), zs.nbytes // stages
    return [base + s * step for s in range(stages)]


def _plan_of(x: Tensor, call: Forward | Backward) -> KernelPlan:
    kernels = tuple([w.shape[-1] for w in call.depthwise])
    return _plan(x.dtype, x.shape, kernels, tuple(call.dilations), call.stride, torch.get_num_threads())


@functools.lru_cache(maxsize=1024)
def _plan(
    dtype: torch.dtype,
    shape: torch.Size,
    sides: Sequence[int],
    dilations: Sequence[int],
    stride: int,
    threads: int,
) -> KernelPlan:
    # A dilation as long as an image leaves the middle tap alone, as any longer one does.
    longest = max(shape[2:])
    within = [min(dilation, longest) for dilation in dilations]
    kernels = _native.kernels("cpu").SeparableNormPlan(DTYPE_CODES[dtype], shape, sides, within, stride, threads)
    y = shape_of(shape, stride)
    zs = len(sides) * y[0], *y[1:]
    return KernelPlan(kernels, (y, zs), kernels.forward_bytes, kernels.backward_bytes)
