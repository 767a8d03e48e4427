"""`cross_entropy` on the compiled kernels (csrc/cross_entropy.h)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from asose_fast.ops.dtypes import WIDE
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels

DTYPES = WIDE
MOST_SCORES = 1 << 13


def unfit(shape: Sequence[int], dtype: torch.dtype) -> str | None:
    """Above 8192 scores PyTorch, which computes exponentials by the vector, is as fast."""
    scores = prod(shape)
    return f"{scores} scores are more than {MOST_SCORES}" if scores > MOST_SCORES else None


def forward(scores: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, right ones and probabilities."""
    kernels, threads = cpu_kernels()
    scores, labels = scores.contiguous(), labels.contiguous()
    loss, correct, probabilities = scores.new_empty(()), labels.new_empty(()), torch.empty_like(scores)
    kernels.cross_entropy_forward(
        DTYPE_CODES[scores.dtype], *scores.shape, address(labels), smoothing, address(scores), address(probabilities),
        address(loss), address(correct), threads,
    )  # fmt: skip
    return loss, correct, probabilities


def backward(grad: Tensor, probabilities: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """The gradient of the scores."""
    kernels, threads = cpu_kernels()
    probabilities, labels = probabilities.contiguous(), labels.contiguous()
    found = torch.empty_like(probabilities)
    kernels.cross_entropy_backward(
        DTYPE_CODES[grad.dtype], *found.shape, address(labels), smoothing, address(grad), address(probabilities),
        address(found), threads,
    )  # fmt: skip
    return found
