"""Networks with mixed operations of all sorts, and data that they can learn."""

import torch
from torch import nn

from asose_fast import Config, MixedOp

WIDTH = 6


class Scaled(nn.Module):
    """A module that no planner knows."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x):
        return x * self.scale


class Choices(nn.Module):
    """Mixed operations with 2 and 3 candidates, one within a candidate of another, one shared."""

    def __init__(self, classes=2):
        super().__init__()
        inner = MixedOp({"tanh": nn.Tanh(), "sin": Scaled()})
        deep = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ModuleDict({"choice": inner})["choice"])
        self.stem = nn.Linear(3, WIDTH)
        self.layers = nn.ModuleList(
            [MixedOp({"deep": deep, "skip_connect": nn.Identity(), "scaled": Scaled()}), MixedOp(linear_or_none())]
        )
        self.shared = MixedOp({"scaled": Scaled(), "tanh": nn.Tanh()})
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x):
        x = self.shared(self.stem(x))
        for layer in self.layers:
            x = x + layer(x)
        return self.head(self.shared(x))


def linear_or_none():
    return {"linear": nn.Linear(WIDTH, WIDTH), "tanh": nn.Tanh()}


NAMES = ["layers.0", "layers.0.ops.deep.1", "layers.1", "shared"]


def batches(count=4, size=10, seed=0):
    """Two classes by the sign of the first feature."""
    generator = torch.Generator().manual_seed(seed)
    xs = [torch.randn(size, 3, generator=generator) for _ in range(count)]
    return [(x, (x[:, 0] > 0).long()) for x in xs]


def small(**changes):
    """Settings of a search of a moment."""
    few = {"warmup_epochs": 1, "search_epochs": 2, "optimize_epochs": 1, "alpha_every": 2, "device": "cpu"}
    return Config(**{**few, **changes})
