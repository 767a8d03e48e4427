# mypy: disable-error-code="import-untyped, untyped-decorator"
"""`arch_weights` in Triton: one program per layer, in float64, so that its choices are those of every backend."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.arch_sample import Boost
from asose_fast.ops.triton.philox import gumbel
from asose_fast.ops.triton.tiles import launched

DTYPES = frozenset({torch.float32, torch.float64})

_MINUS_INFINITY = tl.constexpr(float("-inf"))


@triton.jit
def _leader(values: tl.tensor, among: tl.tensor, op: tl.tensor, SIZE: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    # The largest value, and the first operation that has it.
    largest = tl.max(tl.where(among, values, _MINUS_INFINITY), axis=0)
    return largest, tl.min(tl.where(among & (values == largest), op, SIZE), axis=0)


@launched
@triton.jit
def _arch_weights_fwd_kernel(
    logits: tl.tensor,
    noise: tl.tensor,  # or None, like rng: known when compiling
    rng: tl.tensor,
    weights: tl.tensor,
    soft: tl.tensor,
    index: tl.tensor,
    entropy: tl.tensor,
    max_prob: tl.tensor,
    temperature: tl.float64,
    amount: tl.float64,
    below: tl.float64,
    ops: tl.int32,
    HARD: tl.constexpr,
    TOP_K: tl.constexpr,
    SKIP: tl.constexpr,
    NONE: tl.constexpr,
    SIZE: tl.constexpr,
) -> None:
    layer = tl.program_id(0)
    op = tl.arange(0, SIZE)
    present = op < ops
    at = layer.to(tl.int64) * ops + op
    a = tl.load(logits + at, mask=present, other=_MINUS_INFINITY).to(tl.float64)

    largest, leader = _leader(a, present, op, SIZE)
    p = tl.where(present, tl.exp(a - largest), 0.0)
    total = tl.sum(p, axis=0)
    moment = tl.sum(tl.where(p > 0, p * (a - largest), 0.0), axis=0)
    highest = 1 / total
    tl.store(entropy + layer, tl.log(total) - moment / total)
    tl.store(max_prob + layer, highest)

    if TOP_K > 0:  # noqa: SIM102 (known when compiling, unlike the next condition)
        # The interpreter would round `below` to float32 in a comparison, but not in a difference.
        if (leader != SKIP) & (highest - below < 0):
            left = present
            for _ in range(TOP_K):
                _, best = _leader(a, left, op, SIZE)
                left = left & (op != best)
            a = tl.where(present & (left == 0) & (op != NONE), a + amount, a)

    if noise is None:
        g = gumbel(tl.load(rng), tl.load(rng + 1), layer, op)
    else:
        g = tl.load(noise + at, mask=present, other=0.0)
    y = (a + g) / temperature
    largest, sample = _leader(y, present, op, SIZE)
    y = tl.where(present, tl.exp(y - largest), 0.0)
    y = y / tl.sum(y, axis=0)
    valid = tl.sum(y, axis=0) > 0  # not NaN
    tl.store(soft + at, y, mask=present)
    if HARD:
        y = tl.where(valid, tl.where(op == sample, 1.0, 0.0), y)
    tl.store(weights + at, y, mask=present)
    tl.store(index + layer, tl.where(valid, sample, 0))


@launched
@triton.jit
def _arch_weights_bwd_kernel(
    grad: tl.tensor,
    soft: tl.tensor,
    grad_logits: tl.tensor,
    temperature: tl.float64,
    ops: tl.int32,
    SIZE: tl.constexpr,
) -> None:
    op = tl.arange(0, SIZE)
    present = op < ops
    at = tl.program_id(0).to(tl.int64) * ops + op
    g = tl.load(grad + at, mask=present, other=0.0).to(tl.float64)
    y = tl.load(soft + at, mask=present, other=0.0).to(tl.float64)
    tl.store(grad_logits + at, y * (g - tl.sum(g * y, axis=0)) / temperature, mask=present)


def forward(
    logits: Tensor,
    noise: Tensor | None,
    rng: Tensor | None,
    temperature: float,
    hard: bool,
    boost: Boost | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Weights, soft weights, index, entropy and max_prob."""
    layers, ops = logits.shape
    logits = logits.contiguous()
    noise = None if noise is None else noise.contiguous()
    rng = None if rng is None else rng.contiguous()
    rule = boost or Boost(top_k=0)
    weights, soft = torch.empty_like(logits), torch.empty_like(logits)
    index = torch.empty(layers, dtype=torch.int64, device=logits.device)
    entropy, max_prob = logits.new_empty(layers), logits.new_empty(layers)
    if layers:
        _arch_weights_fwd_kernel[(layers,)](
            logits, noise, rng, weights, soft, index, entropy, max_prob, temperature, rule.amount, rule.below, ops,
            hard, rule.top_k, rule.skip, rule.none, triton.next_power_of_2(ops), num_warps=1,
        )  # fmt: skip
    return weights, soft, index, entropy, max_prob


def backward(grad: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """dL/d logits."""
    layers, ops = soft.shape
    soft = soft.contiguous()
    grad_logits = torch.empty_like(soft)
    if layers:
        _arch_weights_bwd_kernel[(layers,)](
            grad.contiguous(), soft, grad_logits, temperature, ops, triton.next_power_of_2(ops), num_warps=1
        )
    return grad_logits
