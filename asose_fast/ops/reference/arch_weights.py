"""`arch_weights` in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.arch_sample import ArchWeights, Boost, boosted
from asose_fast.ops.noise import drawn_noise

DTYPES = frozenset({torch.float32, torch.float64})


def reference(
    logits: Tensor,
    temperature: float,
    *,
    hard: bool = True,
    boost: Boost | None = None,
    noise: Tensor,
) -> ArchWeights:
    """The formula of `arch_weights` in plain differentiable PyTorch: what every backend is tested against."""
    a = logits.double()
    p = a.softmax(1)
    max_prob = p.detach().amax(1)
    z = (boosted(a, boost) + noise.double()) / temperature
    y = z.softmax(1)
    valid = ~y.detach().isnan().any(1)
    index = torch.where(valid, _first_argmax(z.detach()), 0)
    weights = y
    if hard:
        one_hot = torch.nn.functional.one_hot(index, a.shape[1])
        weights = torch.where(valid[:, None], one_hot + (y - y.detach()), y)
    entropy = -torch.xlogy(p, p).sum(1).detach()
    return ArchWeights(weights.to(logits.dtype), index, entropy.to(logits.dtype), max_prob.to(logits.dtype))


def _first_argmax(values: Tensor) -> Tensor:
    return values.sort(dim=1, descending=True, stable=True).indices[:, 0]


def forward(
    logits: Tensor,
    noise: Tensor | None,
    rng: Tensor | None,
    temperature: float,
    hard: bool,
    boost: Boost | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The reference as a backend: weights, soft weights, index, entropy and max_prob."""
    noise = noise_of(rng, logits) if noise is None else noise
    soft = reference(logits, temperature, hard=False, boost=boost, noise=noise)
    weights = (
        reference(logits, temperature, hard=True, boost=boost, noise=noise).weights if hard else soft.weights.clone()
    )
    return weights, soft.weights, soft.index, soft.entropy, soft.max_prob


def noise_of(rng: Tensor | None, logits: Tensor) -> Tensor:
    """The noise that a seed and an offset stand for, in the shape of the logits."""
    assert rng is not None
    return drawn_noise(rng, *logits.shape)


def backward(grad: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """dL/da = y * (g - <g, y>) / T."""
    g, y = grad.double(), soft.double()
    return (y * (g - (g * y).sum(1, keepdim=True)) / temperature).to(soft.dtype)
