"""A second classifier inside a network has a loss that helps to train a deep one from scratch (arXiv 1806.09055)."""

from __future__ import annotations

from torch import Tensor, nn

from asose_fast.space.build import ImageNetwork


class Auxiliary(nn.Module):
    """This classifier gives class scores from the features two thirds of the way through a network. It has a ReLU,
    means over a 2x2 grid, a 1x1 and a 2x2 convolution to 128 and 768 channels, each with norm and ReLU, and a linear
    layer. It is no part of the network.

    A forward pass of the network in training mode leaves the features here, for `forward` to take.
    """

    def __init__(self, network: ImageNetwork) -> None:
        super().__init__()
        module, channels = network.middle
        self.head = nn.Sequential(
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(768, network.spec.classes),
        )
        self._features: Tensor | None = None
        module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, _: object, output: Tensor) -> None:
        if module.training:
            self._features = output

    def forward(self) -> Tensor:
        """Returns scores (N, classes) for the batch that the network saw last."""
        if self._features is None:
            raise RuntimeError("the network has not run in training mode yet")
        scores: Tensor = self.head(self._features)
        self._features = None
        return scores
