"""How the validation loss bends in alpha, the more before a search collapses (Zela et al., arXiv 1909.09656)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from asose_fast.engine.step.steps import Objective, classification, frozen
from asose_fast.engine.step.sync_batch_norm import on_its_own

ITERATIONS = 8
PERTURBATION = 1e-2
"""Length of the finite difference, in logits."""


def dominant_eigenvalue(loss: Callable[[Tensor], Tensor], logits: Tensor, iterations: int = ITERATIONS) -> float:
    """The eigenvalue of largest magnitude of the Hessian H of `loss` at `logits` (L, K), by power iteration.

    v <- H v / |H v|,   H v = (grad(a + e v) - grad(a - e v)) / 2 e,   lambda = <v, H v>

    The products are finite differences of gradients, since the fused layers have their second derivatives from plain
    PyTorch, which takes longer: `loss` is called 2 `iterations` times. Deterministic: v begins as the gradient at
    `logits`, or as ones where that is 0.
    """

    def gradient(at: Tensor) -> Tensor:
        at = at.detach().clone().requires_grad_()
        return torch.autograd.grad(loss(at), at)[0]

    v = gradient(logits)
    v = v if v.norm() > 0 else torch.ones_like(logits)
    eigenvalue = 0.0
    for _ in range(iterations):
        v = v / v.norm()
        product = (gradient(logits + PERTURBATION * v) - gradient(logits - PERTURBATION * v)) / (2 * PERTURBATION)
        eigenvalue = float((v * product).sum())
        if not product.norm() > 0:
            return 0.0
        v = product
    return eigenvalue


def curvature(network: nn.Module, x: Tensor, y: Tensor, logits: Tensor, objective: Objective = classification) -> float:
    """Of the loss of the soft mixture softmax(logits) on a batch, under the batch's statistics. The network is
    as before afterwards."""
    buffers = [buffer.clone() for buffer in network.buffers()]
    with frozen(network), on_its_own(network):
        found = dominant_eigenvalue(lambda at: objective(network(x, at.softmax(1)), y).loss, logits)
    for buffer, before in zip(network.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return found
