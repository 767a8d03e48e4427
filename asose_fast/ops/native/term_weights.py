"""`term_weights` on the compiled kernels (csrc/term_weights.h)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops.native import DTYPE_CODES, address, addresses, cpu_kernels

DTYPES = frozenset({torch.float32, torch.float64})


def forward(
    weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int, dtype: torch.dtype
) -> Tensor:
    """The weights of the terms."""
    kernels, threads = cpu_kernels()
    weights = None if weights is None else weights.contiguous()
    v = torch.empty(len(order), dtype=dtype)
    kernels.term_weights_forward(*_op(weights, gain, order, identity), DTYPE_CODES[dtype], address(v), threads)
    return v


def backward(
    grad: Tensor, weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int
) -> tuple[Tensor, Tensor]:
    """dL/dw and dL/dg; an empty tensor and 0 where there are none."""
    kernels, threads = cpu_kernels()
    grad, weights = grad.contiguous(), None if weights is None else weights.contiguous()
    of_weights = None if weights is None else torch.empty(weights.shape, dtype=weights.dtype)
    of_gain = None if gain is None else torch.empty((), dtype=gain.dtype)
    kernels.term_weights_backward(
        *_op(weights, gain, order, identity), DTYPE_CODES[grad.dtype], *addresses((grad, of_weights, of_gain)), threads
    )
    return (
        grad.new_empty(0) if of_weights is None else of_weights,
        grad.new_zeros(()) if of_gain is None else of_gain,
    )


def _op(weights: Tensor | None, gain: Tensor | None, order: Sequence[int], identity: int) -> tuple[Any, ...]:
    dtypes = [0 if t is None else DTYPE_CODES[t.dtype] for t in (weights, gain)]
    count = 1 + max(*order, identity) if weights is None else len(weights)
    return dtypes, count, addresses((weights, gain)), order, identity
