"""The convolutions of a factorized reduction, `skip_connect` at stride 2, with their ReLU as one autograd node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from asose_fast.ops.autocast import computing_dtype, without_autocast
from asose_fast.ops.autograd import gradients, save, transformed, twice_differentiable


def factorized_reduce(x: Tensor, even: Tensor, odd: Tensor) -> Tensor:
    """Two 1x1 convolutions, of the rectified pixels (2i, 2j) and (2i + 1, 2j + 1), side by side.

        y[:, :, i, j] = cat(even @ relu(x)[:, :, 2i, 2j], odd @ relu(x)[:, :, 2i + 1, 2j + 1]), with 0 beyond the image

    Only x is kept for backward, which writes its gradient once: autograd of the formula rectifies all of x and adds up
    two gradients of its size that are 0 in three pixels of four.

    Args:
        x: (N, C, H, W), floating.
        even, odd: (C_even, C, 1, 1) and (C_odd, C, 1, 1).

    Returns:
        (N, C_even + C_odd, ceil(H / 2), ceil(W / 2)), channels_last, in the dtype of x; under autocast, for a float32
        x, in that of autocast.
    """
    x = x.to(computing_dtype(x))
    with without_autocast(x):
        if transformed():
            return reference(x, even, odd)
        return _FactorizedReduce.apply(x.contiguous(memory_format=torch.channels_last), even, odd)  # type: ignore[no-any-return]


def reference(x: Tensor, even: Tensor, odd: Tensor) -> Tensor:
    """The formula in plain differentiable PyTorch."""
    active = F.pad(x.relu(), (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    pixels = (active[:, :, i::2, i::2] for i in (0, 1))
    halves = [torch.einsum("nchw,ocij->nohw", p, w) for p, w in zip(pixels, (even, odd), strict=True)]
    return torch.cat(halves, 1)


def _differentiable_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return gradients(ctx, reference, ctx.saved_tensors, [grad])


class _FactorizedReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, even: Tensor, odd: Tensor) -> Tensor:
        save(ctx, x, even, odd)
        height, width = (-(-size // 2) for size in x.shape[2:])
        y = x.new_empty(len(x), height, width, len(even) + len(odd))
        for i, (weight, part) in enumerate(zip((even, odd), y.split([len(even), len(odd)], -1), strict=True)):
            torch.mm(_active(x, i), _matrix(weight, x).T, out=part.flatten(0, 2))
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, even, odd = ctx.saved_tensors
        need_x, *need_weights = ctx.needs_input_grad
        grads = grad.permute(0, 2, 3, 1).contiguous().split([len(even), len(odd)], -1)
        grad_x = torch.zeros_like(x) if need_x else None
        of_weights: list[Tensor | None] = []
        for i, (weight, g, need) in enumerate(zip((even, odd), grads, need_weights, strict=True)):
            rows, pixels = g.flatten(0, 2), _active(x, i)
            of_weights.append((rows.T @ pixels).view(weight.shape).to(weight.dtype) if need else None)
            if grad_x is not None:
                of_pixels = torch.ops.aten.threshold_backward(rows @ _matrix(weight, x), pixels, 0)
                target = grad_x[:, :, i::2, i::2]
                height, width = target.shape[2:]
                target.copy_(of_pixels.view(*g.shape[:3], x.shape[1]).permute(0, 3, 1, 2)[..., :height, :width])
        return grad_x, *of_weights


def _active(x: Tensor, first: int) -> Tensor:
    """Pixels (2i + first, 2j + first), (N ceil(H / 2) ceil(W / 2), C), rectified on the way."""
    picked = x[:, :, first::2, first::2].permute(0, 2, 3, 1).relu()
    down, across = (size % 2 * first for size in x.shape[2:])
    return F.pad(picked, (0, 0, 0, across, 0, down)).flatten(0, 2) if down or across else picked.flatten(0, 2)


def _matrix(weight: Tensor, x: Tensor) -> Tensor:
    return weight.flatten(1).to(x.dtype)
