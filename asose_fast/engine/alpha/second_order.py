"""Alpha steps that see one step of the weights ahead (DARTS, Liu et al., arXiv 1806.09055, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor], Tensor]
"""Of the architecture weights (L, K), on a batch of its own."""
PERTURBATION = 0.01
"""Length of the step of the finite difference, in the space of all weights."""


def unrolled_gradient(
    network: nn.Module, optimizer: torch.optim.Optimizer, architecture: Tensor, train: Loss, valid: Loss
) -> tuple[Tensor, Tensor]:
    """L_valid(w', A) and its gradient for the architecture weights A through w' = w - xi (g + decay w + momentum m),
    the next weights that `optimizer` would come to; g = dL_train(w, A)/dw, m its momentum and xi its learning rate:

        dL_valid/dA - xi d/dA <dL_train/dw, v>,   v = dL_valid(w', A)/dw',
        d/dA <dL_train/dw, v> = (dL_train(w + e v)/dA - dL_train(w - e v)/dA) / 2 e,   e = 0.01 / |v|.

    Three forward and backward passes more than the first order. Weights, their gradients and running statistics are as
    before afterwards, bit for bit.

    Args:
        network: whose parameters are w.
        optimizer: of w, an SGD.
        architecture: A (L, K), without gradient.
        train: L_train as a function of A, in the present weights of `network`.
        valid: L_valid likewise.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    gradients = [p.grad for p in parameters]
    buffers = [b.clone() for b in network.buffers()]
    try:
        found = torch.autograd.grad(train(architecture), parameters, allow_unused=True)
        ahead = _next_step(optimizer, parameters, found)
        rate = float(optimizer.param_groups[0]["lr"])
        _move(parameters, before, ahead, -rate)
        leaf = architecture.detach().clone().requires_grad_()
        loss = valid(leaf)
        direct, *directions = _gradient(loss, [leaf, *parameters])
        length = torch.stack([d.norm() for d in directions]).norm()
        step = float(PERTURBATION / length) if length > 0 else 0.0
        sides = []
        for sign in (1, -1):
            _move(parameters, before, directions, sign * step)
            leaf = architecture.detach().clone().requires_grad_()
            sides.append(_gradient(train(leaf), [leaf])[0])
        indirect = (sides[0] - sides[1]) / (2 * step) if step else torch.zeros_like(direct)
        return loss.detach(), direct - rate * indirect
    finally:
        _move(parameters, before, before, 0.0)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        for b, value in zip(network.buffers(), buffers, strict=True):
            b.copy_(value)


def _gradient(loss: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
    """Zero for what the loss does not depend on."""
    found = torch.autograd.grad(loss, of, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(of, found, strict=True)]


def _next_step(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]
) -> list[Tensor]:
    """What the optimizer would subtract, over its learning rate: nothing without a gradient, as off a sampled path."""
    group, steps = optimizer.param_groups[0], []
    for p, g in zip(parameters, gradients, strict=True):
        if g is None:
            steps.append(torch.zeros_like(p))
            continue
        momentum = optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None
        step = g + group["weight_decay"] * p.detach()
        steps.append(step if momentum is None else step + group["momentum"] * momentum)
    return steps


@torch.no_grad()
def _move(parameters: Sequence[Tensor], start: Sequence[Tensor], direction: Sequence[Tensor], length: float) -> None:
    for p, origin, d in zip(parameters, start, direction, strict=True):
        if length:
            torch.add(origin, d, alpha=length, out=p)
        else:
            p.copy_(origin)
