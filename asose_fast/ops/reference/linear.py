"""`linear` in plain PyTorch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from asose_fast.ops.dtypes import FLOATS

DTYPES = FLOATS


def reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `linear` computes, as PyTorch would."""
    return F.linear(x, weight, bias)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """y, as a backend."""
    return reference(x, weight, bias).contiguous()


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, need_x: bool, need_weight: bool, need_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias, empty where they are not needed; as a backend."""
    none = grad.new_empty
    return (
        (grad @ weight).contiguous() if need_x else none(0),
        (grad.t() @ x).contiguous() if need_weight else none(0),
        grad.sum(0) if need_bias else none(0),
    )
