"""Architecture weights of all layers in one operator: boost, Gumbel-softmax, straight-through sample, monitoring."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.arch_sample import ArchWeights, Boost
from asose_fast.ops.autograd import on_saved, save, transformed, twice_differentiable
from asose_fast.ops.checks import check_flag, check_integer, check_like, check_number, check_tensor
from asose_fast.ops.library import define
from asose_fast.ops.reference.arch_weights import DTYPES, backward, noise_of, reference

MAX_OPS = 128

registry.register(
    "arch_weights",
    {
        "reference": "asose_fast.ops.reference.arch_weights",
        "cpu": "asose_fast.ops.native.arch_weights",
        "cuda": "asose_fast.ops.native.arch_weights",
        "triton": "asose_fast.ops.triton.arch_weights",
    },
)


def arch_weights(
    logits: Tensor,
    temperature: float,
    *,
    hard: bool = True,
    boost: Boost | None = None,
    noise: Tensor | None = None,
    rng: Tensor | None = None,
) -> ArchWeights:
    """Samples the weights of every layer's candidate operations (docs/concepts.md; Jang et al., ICLR 2017).

        a' = a + amount * mask               mask: the boosted logits, a constant for the gradient
        y  = softmax((a' + G) / T)
        hard: weights = one_hot(argmax (a' + G)) forward, the gradient of y backward (straight-through)
        soft: weights = y
        dL/da = y * (g - <g, y>) / T

    Everything is computed in float64, so that the discrete choices are the same on every backend. A NaN among a layer's
    logits or noise makes all its weights NaN.

    Args:
        logits: (L, K) float32, float64 or bfloat16, K <= 128, any strides.
        temperature: T > 0, already clamped by the caller.
        hard: straight-through sample instead of the relaxed one.
        boost: the boost, or None for a' = a.
        noise: (L, K) Gumbel noise G, or None to draw it.
        rng: int64 (2,) on the device of `logits`: seed and offset of the noise (`ops.gumbel_noise`). Without it, they
            are drawn from the device's default torch generator.

    Returns:
        ArchWeights, in the dtype of `logits` (float32 for bfloat16).

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape, device or range.
    """
    check_flag("arch_weights: hard", hard)
    _check(logits, temperature, boost, noise, rng)
    if logits.dtype == torch.bfloat16:
        logits = logits.float()
    if noise is not None:
        noise = noise.detach().double()
    elif rng is None:
        rng = torch.randint(0, 2**63 - 1, (2,), device=logits.device)
    if transformed():
        noise = noise_of(rng, logits) if noise is None else noise
        return reference(logits, temperature, hard=hard, boost=boost, noise=noise)
    run = _ArchWeights.apply if torch.is_grad_enabled() and logits.requires_grad else _drawn
    weights, _, index, entropy, max_prob = run(logits, noise, rng, temperature, hard, boost)
    return ArchWeights(weights, index, entropy, max_prob)


def _check(logits: Tensor, temperature: float, boost: Boost | None, noise: Tensor | None, rng: Tensor | None) -> None:
    check_tensor("arch_weights: logits", logits)
    check_number("arch_weights: temperature", temperature)
    if logits.dim() != 2 or not 1 <= logits.shape[1] <= MAX_OPS:
        raise ValueError(f"arch_weights: logits must be (L, K) with K from 1 to {MAX_OPS}, got {tuple(logits.shape)}")
    if logits.dtype not in DTYPES and logits.dtype != torch.bfloat16:
        raise TypeError(f"arch_weights: logits must be float32, float64 or bfloat16, got {logits.dtype}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"arch_weights: temperature must be positive and finite, got {temperature}")
    if noise is not None:
        if rng is not None:
            raise ValueError("arch_weights: give noise or rng, not both")
        check_tensor("arch_weights: noise", noise)
        if noise.shape != logits.shape or noise.device != logits.device or not noise.is_floating_point():
            raise ValueError(
                f"arch_weights: noise must be floating and like logits, {tuple(logits.shape)} on {logits.device}; "
                f"got {noise.dtype} {tuple(noise.shape)} on {noise.device}"
            )
    if rng is not None:
        check_tensor("arch_weights: rng", rng)
    if rng is not None and (rng.dtype != torch.int64 or rng.shape != (2,) or rng.device != logits.device):
        raise ValueError(
            f"arch_weights: rng must be int64 (2,) on {logits.device}, "
            f"got {rng.dtype} {tuple(rng.shape)} on {rng.device}"
        )
    if boost is not None:
        _check_boost(boost)
        ops = logits.shape[1]
        if not 1 <= boost.top_k <= ops:
            raise ValueError(f"arch_weights: boost.top_k must be from 1 to K = {ops}, got {boost.top_k}")
        for name in ("skip", "none"):
            if not -1 <= getattr(boost, name) < ops:
                raise ValueError(
                    f"arch_weights: boost.{name} must be an index below K = {ops}, or -1; got {getattr(boost, name)}"
                )


def _check_boost(boost: Boost) -> None:
    if not isinstance(boost, Boost):
        raise TypeError(f"arch_weights: boost must be a Boost or None, got {type(boost).__name__}")
    for name in ("top_k", "skip", "none"):
        check_integer(f"arch_weights: boost.{name}", getattr(boost, name))
    for name in ("amount", "below"):
        check_number(f"arch_weights: boost.{name}", getattr(boost, name))


def _differentiable_backward(
    ctx: Any, grad: Tensor | None, grad_soft: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    """`backward` is made of differentiable operators, and the soft weights are an output, so that they know whence they
    came: their gradient is that of a second derivative."""
    grads = [g for g in (grad, grad_soft) if g is not None]
    (soft,) = ctx.saved_tensors
    return backward(sum(grads[1:], grads[0]), soft, ctx.temperature) if grads else None, *(None,) * 5


def _drawn(
    logits: Tensor, noise: Tensor | None, rng: Tensor | None, temperature: float, hard: bool, boost: Boost | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Weights, soft weights, index, entropy and max_prob, from arguments that have been checked."""
    rule = boost or Boost(top_k=0)
    found: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = arch_weights_fwd.unchecked(
        logits, noise, rng, temperature, hard, rule.top_k, rule.amount, rule.below, rule.skip, rule.none
    )
    return found


class _ArchWeights(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        noise: Tensor | None,
        rng: Tensor | None,
        temperature: float,
        hard: bool,
        boost: Boost | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        weights, soft, index, entropy, max_prob = _drawn(logits, noise, rng, temperature, hard, boost)
        save(ctx, soft)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(index, entropy, max_prob)
        ctx.set_materialize_grads(False)
        return weights, soft, index, entropy, max_prob

    @staticmethod
    @twice_differentiable(_differentiable_backward)
    def backward(
        ctx: Any, grad: Tensor | None, grad_soft: Tensor | None, *_: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        grad = grad_soft if grad is None else grad if grad_soft is None else grad + grad_soft
        if grad is None:
            return (None,) * 6
        (soft,) = ctx.saved_tensors
        grad_logits = on_saved(ctx, arch_weights_bwd)(grad, soft, ctx.temperature)
        return grad_logits, None, None, None, None, None


def _fwd(
    logits: Tensor,
    noise: Tensor | None,
    rng: Tensor | None,
    temperature: float,
    hard: bool,
    top_k: int,
    amount: float,
    below: float,
    skip: int,
    none: int,
) -> Any:
    boost = Boost(top_k, amount, below, skip, none) if top_k else None
    return registry.select("arch_weights", logits).forward(logits, noise, rng, temperature, hard, boost)


def _check_fwd(
    logits: Tensor,
    noise: Tensor | None,
    rng: Tensor | None,
    temperature: float,
    hard: bool,
    top_k: int,
    amount: float,
    below: float,
    skip: int,
    none: int,
) -> None:
    _check(logits, temperature, Boost(top_k, amount, below, skip, none) if top_k else None, noise, rng)
    check_like("arch_weights_fwd: logits", logits, logits.shape, *DTYPES)
    check_like("arch_weights_fwd: noise", noise, logits.shape, torch.float64)
    if noise is None and rng is None:
        raise ValueError("arch_weights_fwd: noise and rng are both missing")


def _fwd_fake(logits: Tensor, *_: object) -> tuple[Tensor, ...]:
    layers, ops = logits.shape
    table, row = logits.new_empty(layers, ops), logits.new_empty(layers)
    return table, torch.empty_like(table), row.new_empty(layers, dtype=torch.int64), row, torch.empty_like(row)


def _bwd(grad: Tensor, soft: Tensor, temperature: float) -> Any:
    return registry.select("arch_weights", soft).backward(grad, soft, temperature)


def _check_bwd(grad: Tensor, soft: Tensor, temperature: float) -> None:
    _check(soft, temperature, None, None, None)
    check_like("arch_weights_bwd: soft", soft, soft.shape, *DTYPES)
    check_like("arch_weights_bwd: grad", grad, soft.shape, soft.dtype)


def _bwd_fake(grad: Tensor, soft: Tensor, temperature: float) -> Tensor:
    return torch.empty_like(soft)


arch_weights_fwd = define(
    "arch_weights_fwd(Tensor logits, Tensor? noise, Tensor? rng, float temperature, bool hard, int top_k, "
    "float amount, float below, int skip, int none) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _fwd,
    _fwd_fake,
    _check_fwd,
)
arch_weights_bwd = define(
    "arch_weights_bwd(Tensor grad, Tensor soft, float temperature) -> Tensor", _bwd, _bwd_fake, _check_bwd
)
