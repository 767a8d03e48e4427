"""The weights of convolutions as the kernels read and write them (csrc/bindings/strided_weights.h)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast.ops.native import DTYPE_CODES, address
from asose_fast.ops.native.multi_depthwise import DTYPES


def known_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype, or for one that the kernels do not know a wider one that they do."""
    return dtype if dtype in DTYPES else torch.float32


def known(weights: Sequence[Tensor]) -> list[Tensor]:
    """The weights in such a dtype."""
    return [w if w.dtype in DTYPES else w.float() for w in weights]


def strided(weights: Sequence[Tensor], tensors: Sequence[Tensor | None] | None = None) -> list[int]:
    """Of the tensors of these weights, or of the weights themselves: dtype, address, columns, side, and the strides of
    channels and columns."""
    found: list[int] = []
    for w, t in zip(weights, weights if tensors is None else tensors, strict=True):
        channels, inputs, _, side = w.shape
        over, across, *down = (0, 0, 0, 0) if t is None else t.stride()
        kind = 0 if t is None else DTYPE_CODES[t.dtype]
        if side == 1 and inputs == channels > 1:
            found += (kind, address(t), inputs, 1, over, across, 0)
        else:
            found += (kind, address(t), side * side, side, over, *down)
    return found
