"""A search on one-dimensional series: which wave is it, through noise and at any phase?"""

import math

import torch
from torch import Tensor, nn

import asose_fast
from asose_fast import MixedOp

LENGTH, CHANNELS, WAVES = 64, 12, ("sine", "square", "sawtooth")


def convolution(kernel: int, dilation: int = 1) -> nn.Sequential:
    """Over the time of (N, C, T), which it keeps."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv1d(CHANNELS, CHANNELS, kernel, padding=padding, dilation=dilation),
        nn.BatchNorm1d(CHANNELS),
        nn.ReLU(),
    )


def choice() -> MixedOp:
    """How far a layer looks."""
    return MixedOp(
        {
            "near": convolution(3),
            "wide": convolution(9),
            "far": convolution(3, dilation=4),
            "mean": nn.AvgPool1d(3, stride=1, padding=1),
        }
    )


def make() -> nn.Sequential:
    """A network from (N, 1, T) to the scores of the waves (N, 3)."""
    return nn.Sequential(
        nn.Conv1d(1, CHANNELS, 5, padding=2),
        choice(),
        nn.MaxPool1d(2),
        choice(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, len(WAVES)),
    )


def batches(count: int, size: int = 32) -> list[tuple[Tensor, Tensor]]:
    """Waves of random kind, phase and period, in noise."""
    made = []
    for _ in range(count):
        y, phase, periods = torch.randint(len(WAVES), (size,)), torch.rand(size, 1), 2 + 2 * torch.rand(size, 1)
        turn = (torch.linspace(0, 1, LENGTH) * periods + phase) % 1
        waves = torch.stack([(2 * math.pi * turn).sin(), (turn < 0.5) * 2.0 - 1, 2 * turn - 1], 1)
        x = waves[torch.arange(size), y] + 0.3 * torch.randn(size, LENGTH)
        made.append((x[:, None], y))
    return made


def main(epochs: int = 15) -> asose_fast.SearchResult:
    """Searches, and says what was found."""
    torch.manual_seed(0)
    loaders = (batches(32), batches(16), batches(16))
    result = asose_fast.search(make(), loaders, asose_fast.Config(epochs=epochs, learning_rate=0.05))
    print(result.genotype)
    print(f"accuracy {result.test_score:.1%}")
    return result


if __name__ == "__main__":
    main()
