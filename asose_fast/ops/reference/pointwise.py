"""`pointwise` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from asose_fast.ops.dtypes import FLOATS

DTYPES = FLOATS


def out_shape(x: Tensor, weights: Sequence[Tensor], stride: int) -> tuple[int, ...]:
    """The shape of what the convolutions make of x."""
    n, _, height, width = x.shape
    return n, sum([len(w) for w in weights]), (height - 1) // stride + 1, (width - 1) // stride + 1


def reference(x: Tensor, weights: Sequence[Tensor], stride: int = 1) -> Tensor:
    """The formula in plain differentiable PyTorch: what every backend is tested against."""
    active = x.relu()
    if stride > 1:
        active = F.pad(active, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    pixels = (active[:, :, g::stride, g::stride] for g in range(len(weights)))
    return torch.cat(
        [torch.einsum("nchw,ocij->nohw", p, w.to(x.dtype)) for p, w in zip(pixels, weights, strict=True)], 1
    )


def forward(x: Tensor, weights: list[Tensor], stride: int) -> Tensor:
    """The outputs side by side; as a backend."""
    height, width = (-(-size // stride) for size in x.shape[2:])
    sizes = [len(w) for w in weights]
    z = x.new_empty(len(x), height, width, sum(sizes))
    for g, (weight, part) in enumerate(zip(weights, z.split(sizes, -1), strict=True)):
        torch.mm(_active(x, g, stride), _matrix(weight, x).T, out=part.flatten(0, 2))
    return z.permute(0, 3, 1, 2)


def backward(
    grad: Tensor, x: Tensor, weights: list[Tensor], stride: int, need_x: bool, need_weights: bool
) -> tuple[Tensor, list[Tensor]]:
    """The gradients of x, empty where it is not needed, and of the weights, none where they are not; as a backend.

    That of x is written once: autograd of the formula rectifies all of x and adds up gradients of its size, which are 0
    in three pixels of four where the stride is 2.
    """
    grads = grad.permute(0, 2, 3, 1).contiguous().split([len(w) for w in weights], -1)
    grad_x = torch.zeros_like(x, memory_format=torch.channels_last) if need_x else x.new_empty(0)
    of_weights: list[Tensor] = []
    for g, (weight, part) in enumerate(zip(weights, grads, strict=True)):
        rows, pixels = part.flatten(0, 2), _active(x, g, stride)
        if need_weights:
            of_weights.append(torch.empty_like(weight).copy_((rows.T @ pixels).view(weight.shape)))
        if need_x:
            of_pixels = torch.ops.aten.threshold_backward(rows @ _matrix(weight, x), pixels, 0)
            target = grad_x[:, :, g::stride, g::stride]
            height, width = target.shape[2:]
            target.copy_(of_pixels.view(*part.shape[:3], x.shape[1]).permute(0, 3, 1, 2)[..., :height, :width])
    return grad_x, of_weights


def _active(x: Tensor, first: int, stride: int) -> Tensor:
    """Pixels (s i + first, s j + first), (N ceil(H / s) ceil(W / s), C), rectified on the way."""
    picked = x[:, :, first::stride, first::stride].permute(0, 2, 3, 1).relu()
    down, across = (size % 2 * first for size in x.shape[2:])
    return F.pad(picked, (0, 0, 0, across, 0, down)).flatten(0, 2) if down or across else picked.flatten(0, 2)


def _matrix(weight: Tensor, x: Tensor) -> Tensor:
    return weight.flatten(1).to(x.dtype)
