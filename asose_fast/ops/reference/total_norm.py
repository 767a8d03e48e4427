"""`total_norm` in plain PyTorch."""

from __future__ import annotations

from torch import Tensor, nn

from asose_fast.ops.dtypes import FLOATS

DTYPES = FLOATS


def reference(tensors: list[Tensor]) -> Tensor:
    """What `total_norm` computes, as PyTorch would."""
    return nn.utils.get_total_norm(tensors)


forward = reference
"""The norm, as a backend."""
