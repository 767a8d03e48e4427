"""`arch_weights` on the compiled kernels (csrc/arch_weights.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.arch_sample import Boost
from asose_fast.ops.native import DTYPE_CODES, address, kernels_of

DTYPES = frozenset({torch.float32, torch.float64})


def forward(
    logits: Tensor,
    noise: Tensor | None,
    rng: Tensor | None,
    temperature: float,
    hard: bool,
    boost: Boost | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Weights, soft weights, index, entropy and max_prob."""
    kernels, execution = kernels_of(logits.device)
    layers, ops = logits.shape
    logits = logits.contiguous()
    noise = None if noise is None else noise.contiguous()
    rng = None if rng is None else rng.contiguous()
    rule = boost or Boost(top_k=0)
    weights, soft = torch.empty_like(logits), torch.empty_like(logits)
    index = torch.empty(layers, dtype=torch.int64, device=logits.device)
    entropy, max_prob = logits.new_empty(layers), logits.new_empty(layers)
    kernels.arch_weights_forward(
        DTYPE_CODES[logits.dtype], layers, ops, address(logits), address(noise), address(rng), temperature, hard,
        rule.top_k, rule.amount, rule.below, rule.skip, rule.none,
        address(weights), address(soft), address(index), address(entropy), address(max_prob), execution,
    )  # fmt: skip
    return weights, soft, index, entropy, max_prob


def backward(grad: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """dL/d logits."""
    kernels, execution = kernels_of(soft.device)
    layers, ops = soft.shape
    grad, soft = grad.contiguous(), soft.contiguous()
    grad_logits = torch.empty_like(soft)
    kernels.arch_weights_backward(
        DTYPE_CODES[soft.dtype], layers, ops, address(grad), address(soft), temperature, address(grad_logits), execution
    )
    return grad_logits
