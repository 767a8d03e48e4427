"""`pool_pair` in plain PyTorch."""

from __future__ import annotations

from itertools import zip_longest

import torch
from torch import Tensor
from torch.nn import functional as F

from asose_fast.ops.dtypes import FLOATS, accumulation_dtype
from asose_fast.ops.layout import channels_last, dense

DTYPES = FLOATS


def reference(x: Tensor, *, stride: int = 1) -> tuple[Tensor, Tensor]:
    """The formula of `pool_pair` in plain differentiable PyTorch: what every backend is tested against."""
    return pool(x, maximum=False, stride=stride), pool(x, maximum=True, stride=stride)


def pool(x: Tensor, *, maximum: bool, stride: int = 1) -> Tensor:
    """One of the poolings."""
    x = channels_last(x)
    return F.max_pool2d(x, 3, stride, 1) if maximum else F.avg_pool2d(x, 3, stride, 1, count_include_pad=False)


def forward(x: Tensor, stride: int, need_avg: bool, need_max: bool) -> tuple[Tensor, Tensor]:
    """What `reference` gives, empty where it is not needed, as a backend."""
    avg, max = (
        dense(pool(x, maximum=maximum, stride=stride)) if need else x.new_empty(0)
        for maximum, need in ((False, need_avg), (True, need_max))
    )
    return avg, max


def maxima(x: Tensor, places: Tensor) -> Tensor:
    """The maxima of the 3x3 windows of x, stride 1, from their places in the windows, in row-major order."""
    height, width = x.shape[2:]
    where = places.long()
    rows = torch.arange(height, device=x.device)[:, None] + where // 3 - 1
    columns = torch.arange(width, device=x.device) + where % 3 - 1
    return x.flatten(2).gather(2, (rows * width + columns).flatten(2)).view(x.shape)


def active(terms: list[Tensor], x: Tensor, rectified: int) -> list[Tensor]:
    """The terms, the last `rectified` of them handed back through a ReLU of x."""
    first = len(terms) - rectified
    return terms[:first] + [torch.ops.aten.threshold_backward(term, x, 0) for term in terms[first:]]


def backward(
    grads: list[Tensor | None],
    zs: list[Tensor | None],
    tables: Tensor,
    x: Tensor,
    stride: int,
    terms: list[Tensor],
    factors: Tensor,
    rectified: int,
    places: Tensor | None,
) -> Tensor:
    """dL/dx of the poolings whose gradient is there, plus sum of factor * term, as a backend. Terms without a factor
    count once, the last `rectified` of them where x is positive.

    Unless `tables` is empty, dL/d(pooled) = scale * grad + slope * (z - center) + shift with its four rows (2, 4, C),
    what a batch norm of z makes of its gradient, the last two terms only where z is there; else it is grad. Where scale
    is 0 it is 0, whatever z is; the CPU's kernels leave that to their caller, who can see the scale.
    """
    window = [3, 3], [stride] * 2, [1, 1]
    acc = accumulation_dtype(x.dtype)
    wide = x.to(acc)
    grad_x = torch.zeros_like(wide, memory_format=torch.channels_last)
    terms = active(terms, x, rectified)
    for term, factor in zip_longest(terms, factors.unbind(), fillvalue=1.0):
        grad_x += factor * term
    for pool, (grad, z) in enumerate(zip(grads, zs, strict=True)):
        if grad is None:
            continue
        of_pool = grad.to(acc)
        if len(tables):
            scale, center, slope, shift = tables[pool, :, :, None, None].to(acc)
            of_pool = scale * of_pool
            if z is not None:
                of_pool = of_pool + slope * (z.to(acc) - center) + shift
            of_pool = torch.where(scale == 0, 0, of_pool)
        if pool == 0:
            grad_x += torch.ops.aten.avg_pool2d_backward(of_pool, wide, *window, False, False, None)
        else:
            _, indices = F.max_pool2d(wide, 3, stride, 1, return_indices=True)
            grad_x += torch.ops.aten.max_pool2d_with_indices_backward(of_pool, wide, *window, [1, 1], False, indices)
    return grad_x.to(x.dtype)
