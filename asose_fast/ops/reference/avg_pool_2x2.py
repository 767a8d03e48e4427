"""`avg_pool_2x2` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.layout import channels_last

DTYPES = FLOATS


def out_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """(N, C, ceil(H / 2), ceil(W / 2)) of (N, C, H, W)."""
    images, channels, height, width = shape
    return images, channels, (height + 1) // 2, (width + 1) // 2


def reference(x: Tensor) -> Tensor:
    """What `avg_pool_2x2` computes, as PyTorch would."""
    return F.avg_pool2d(channels_last(x), 2, ceil_mode=True, count_include_pad=False)


def forward(x: Tensor) -> Tensor:
    """The means, as a backend."""
    return reference(x).contiguous(memory_format=torch.channels_last)


def backward(grad: Tensor, shape: Sequence[int]) -> Tensor:
    """The gradient of an x of this shape, as a backend."""
    x = torch.empty(*shape, dtype=grad.dtype, device=grad.device, memory_format=torch.channels_last)
    found: Tensor = torch.ops.aten.avg_pool2d_backward(grad, x, [2, 2], [], [0, 0], True, False, None)
    return found.contiguous(memory_format=torch.channels_last)
