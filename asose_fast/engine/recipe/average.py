"""The exponential moving average of a network's weights and buffers."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch import nn

from asose_fast.space.copying import deepcopy
from asose_fast.space.held import held

Network = TypeVar("Network", bound=nn.Module)


class WeightAverage(Generic[Network]):
    """Holds a network whose tensors follow those of the trained one, w, after every step:

        e = d e + (1 - d) w,    d = min(decay, (1 + t) / (10 + t)),    t = 0, 1, 2, ...

    The second term keeps the beginning from weighing on a short training (TensorFlow's ExponentialMovingAverage). So do
    the running statistics of norms; whole numbers are copied.

    Attributes:
        network: the average, in evaluation mode. It shares no tensor with the trained network.
        steps: t, the updates so far.
    """

    def __init__(self, network: Network, decay: float) -> None:
        """Begins with the values of `network`."""
        self.network = deepcopy(network).requires_grad_(False).eval()
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """Moves on after a step of `network`, without a wait for the device."""
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        pairs = list(zip(_tensors(self.network), _tensors(network), strict=True))
        real = [(mine, theirs) for mine, theirs in pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in real], [theirs for _, theirs in real], 1 - keep)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates."""
        return {"network": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`, for the average of an equal network."""
        self.network.load_state_dict(state["network"])
        self.steps = state["steps"]


def _tensors(network: nn.Module) -> list[torch.Tensor]:
    modules = list(network.modules())
    return [*held(modules, "_parameters"), *held(modules, "_buffers")]
