"""SGD whose step is one call of `ops.sgd`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import optimizer

from asose_fast.ops.sgd import Clip, sgd
from asose_fast.ops.total_norm import total_norm


class _Move(NamedTuple):
    """The parameters of a group that have gradients, and these."""

    group: dict[str, Any]
    parameters: list[Tensor]
    gradients: list[Tensor]


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

    def step(self, closure: Callable[[], float] | None = None, *, clip: Clip | None = None) -> float | None:  # type: ignore[override]
        """Updates every parameter that has a gradient, as if that had been clipped before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for move in self._moves():
            self._take(move, clip)
        return loss

    def clipped_step(self, bound: float, check: Callable[[Tensor], None] | None = None) -> None:
        """`step` by gradients whose norm is bounded; `check` sees the norm before."""
        moves = self._moves()
        norm = total_norm([gradient for move in moves for gradient in move.gradients])
        if check:
            check(norm)
        clip = Clip(norm, bound)
        if self._followed():
            self.step(clip=clip)
        else:
            for move in moves:
                self._take(move, clip)

    def _followed(self) -> bool:
        """Whether a profiler, hooks or what stands in for `step` wait for one. PyTorch takes as long to see to them as
        the step does."""
        return bool(
            torch.autograd.profiler._is_profiler_enabled
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or optimizer._global_optimizer_pre_hooks
            or optimizer._global_optimizer_post_hooks
            or "step" in self.__dict__
            or type(self) is not SGD
        )

    def _moves(self) -> list[_Move]:
        moves = []
        for group in self.param_groups:
            move = _Move(group, [], [])
            for p in group["params"]:
                gradient = p.grad
                if gradient is not None:
                    move.parameters.append(p)
                    move.gradients.append(gradient)
            moves.append(move)
        return moves

    def _take(self, move: _Move, clip: Clip | None) -> None:
        group = move.group
        sgd(
            move.parameters,
            move.gradients,
            [self._momentum(p) for p in move.parameters] if group["momentum"] else [],
            rate=float(group["lr"]),
            momentum=group["momentum"],
            decay=group["weight_decay"],
            nesterov=group["nesterov"],
            clip=clip,
        )

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        momentum: Tensor | None = state.get("momentum_buffer")
        if momentum is None:
            momentum = state["momentum_buffer"] = torch.zeros_like(p)
        return momentum
