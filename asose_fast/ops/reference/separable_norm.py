"""`separable_norm` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import channels_last
from asose_fast.ops.norms import Measured
from asose_fast.ops.reference import norm_lerp, norm_pool, norm_tables, separable
from asose_fast.ops.reference.convolution import convolution
from asose_fast.ops.separable_norm_call import Backward, Forward, Gradients, none_kept

DTYPES = FLOATS


def reference(
    x: Tensor,
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    norms: Sequence[Callable[[Tensor], Tensor]],
    dilations: Sequence[int],
    stride: int,
    shortcut: Tensor | None,
    gain: Tensor | None,
) -> Tensor:
    """What `separable_norm` computes, as PyTorch would, in the accumulation dtype of x."""
    y = wide = x.to(accumulation_dtype(x.dtype))
    for taps, matrix, norm, dilation in zip(depthwise, pointwise, norms, dilations, strict=True):
        step = stride if y is wide else 1
        pad = dilation * (taps.shape[-1] - 1) // 2
        y = convolution(taps, step, pad, dilation, x)(y.relu())
        y = norm(convolution(matrix, 1, 0, 1, x)(y))
    if gain is not None:
        y = torch.lerp(wide if shortcut is None else shortcut.to(y.dtype), y, gain.to(y.dtype))
    return channels_last(y.to(x.dtype))


def measured_norms(
    tables: Tensor, gamma: Sequence[Tensor | None], beta: Sequence[Tensor | None], of_batch: Sequence[bool]
) -> list[Measured]:
    """The norms as they were in a forward pass, from its tables (S, 2, C)."""
    rows = zip(tables, gamma, beta, of_batch, strict=True)
    return [Measured(mean, rstd, g, b, batch) for (mean, rstd), g, b, batch in rows]


def forward(call: Forward) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, and `zs`, `tables`, `ys` and `params` of `Backward`, the last two empty; as a backend."""
    x, norms = call.x, call.norms
    zs: list[Tensor] = []
    tables: list[Tensor] = []
    for s, (taps, matrix, dilation) in enumerate(zip(call.depthwise, call.pointwise, call.dilations, strict=True)):
        scale = shift = None
        if s:
            tables.append(norm_tables.of_one(zs[-1], norms[s - 1]))
            (mean, rstd), (gamma, beta, *_) = tables[-1], norms[s - 1]
            factor = rstd if gamma is None else gamma * rstd
            offset = -mean * factor if beta is None else beta - mean * factor
            scale, shift = (t[None].to(accumulation_dtype(x.dtype)) for t in (factor, offset))
        (z,) = separable.reference(
            zs[-1] if s else x, [taps], [matrix], dilations=[dilation], stride=1 if s else call.stride,
            scale=scale, shift=shift,
        )  # fmt: skip
        zs.append(z.contiguous(memory_format=torch.channels_last))
    if call.gain is None:
        y, last = norm_pool.forward(zs[-1], norms[-1], 1)
    else:
        shortcut = x if call.shortcut is None else call.shortcut
        y, last = norm_lerp.forward(zs[-1], shortcut, call.gain, norms[-1])
    whole = torch.cat(zs).contiguous(memory_format=torch.channels_last)
    return y, whole, torch.stack([*tables, last]), *none_kept(x)


def backward(call: Backward) -> Gradients:
    """The gradients, from those of `reference` with the norms that were measured; as a backend."""

    def leaf(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.detach().requires_grad_()

    with torch.enable_grad():
        x, shortcut, gain = map(leaf, (call.x, call.shortcut, call.gain))
        depthwise, pointwise, gamma, beta = (
            [leaf(t) for t in tensors] for tensors in (call.depthwise, call.pointwise, call.gamma, call.beta)
        )
        norms = measured_norms(call.tables, gamma, beta, call.of_batch)
        assert x is not None
        y = reference(x, depthwise, pointwise, norms, call.dilations, call.stride, shortcut, gain)  # type: ignore[arg-type]
    leaves = [x, shortcut, gain, *depthwise, *pointwise, *gamma, *beta]
    there = [t for t in leaves if t is not None]
    gradient = dict(zip(map(id, there), torch.autograd.grad(y, there, call.grad), strict=True))
    if call.gain is not None and call.gain == 0:
        for t in (*depthwise, *pointwise, *gamma, *beta):
            gradient[id(t)] = torch.zeros_like(gradient[id(t)]) if t is not None else call.grad
        gradient[id(x)] = call.grad.clone() if call.shortcut is None else torch.zeros_like(call.x)

    def one(t: Tensor | None, wanted: bool) -> Tensor:
        return call.grad.new_empty(0) if t is None or not wanted else _dense(gradient[id(t)])

    def some(tensors: Sequence[Tensor | None], wanted: Sequence[bool]) -> list[Tensor]:
        return [gradient[id(t)] for t, want in zip(tensors, wanted, strict=True) if want and t is not None]

    return Gradients(
        one(x, call.need_x), one(shortcut, call.need_shortcut), one(gain, call.need_gain),
        some(depthwise, call.need_depthwise), some(pointwise, call.need_pointwise),
        some(gamma, call.need_affine), some(beta, call.need_affine),
    )  # fmt: skip


def _dense(grad: Tensor) -> Tensor:
    return grad.contiguous(memory_format=torch.channels_last) if grad.dim() == 4 else grad
