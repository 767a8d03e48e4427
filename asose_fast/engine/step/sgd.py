"""SGD whose step is one call of `ops.sgd`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops.sgd import Clip, sgd


class SGD(torch.optim.SGD):
    """`torch.optim.SGD` that clips gradients on the way, which stay as they are. It has no dampening, and only
    minimises; state, groups and hooks are PyTorch's.

    The momentum of a parameter begins at 0 with its first gradient, as there.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay=weight_decay, nesterov=nesterov)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Takes the gradients away, or fills them with 0. PyTorch's takes ten times as long, most of it to be seen by a
        profiler."""
        if not set_to_none:
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None, *, clip: Clip | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient, as if that had been clipped before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters, gradients, momenta = [], [], []
            for p in group["params"]:
                gradient = p.grad
                if gradient is None:
                    continue
                parameters.append(p)
                gradients.append(gradient)
                if group["momentum"]:
                    state = self.state[p]
                    if state.get("momentum_buffer") is None:
                        state["momentum_buffer"] = torch.zeros_like(p)
                    momenta.append(state["momentum_buffer"])
            sgd(
                parameters,
                gradients,
                momenta,
                rate=float(group["lr"]),
                momentum=group["momentum"],
                decay=group["weight_decay"],
                nesterov=group["nesterov"],
                clip=clip,
            )
        return loss
