"""`sgd` in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.dtypes import FLOATS

DTYPES = FLOATS


@torch.no_grad()
def reference(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    norm: Tensor | None,
    bound: float,
    rate: float,
    momentum: float,
    decay: float,
    nesterov: bool,
) -> None:
    """What `sgd` does, as PyTorch would. Raises ValueError where elements of what is updated share memory."""
    for t in (*parameters, *momenta):
        if t.numel() > 1 and any(size > 1 and not step for size, step in zip(t.shape, t.stride(), strict=True)):
            raise ValueError(f"sgd: parameters and momenta must not be expanded, got strides {t.stride()}")
    steps: list[Tensor] | tuple[Tensor, ...] = gradients
    if norm is not None:
        factor = (bound / (norm + 1e-6)).clamp(max=1.0)
        steps = [g * factor.to(g.dtype) for g in gradients]
    if decay:
        steps = torch._foreach_add(steps, parameters, alpha=decay)
    if momenta:
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, steps)
        steps = torch._foreach_add(steps, momenta, alpha=momentum) if nesterov else momenta
    torch._foreach_add_(parameters, steps, alpha=-rate)


forward = reference
"""The step, as a backend."""
