"""What is asked of another implementation of a search in the space of DARTS."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.steps import LAYOUTS

Algorithm = Literal["darts", "gdas", "sampled"]
"""The soft mixture at first order (arXiv 1806.09055), one sampled candidate an edge in both steps (arXiv 1910.04465),
or straight-through sampling, our default."""


class Size(NamedTuple):
    """How large the network and a batch are."""

    batch: int
    channels: int
    cells: int


class Peer(ABC):
    """The step of another implementation: their code, but for the layout of images and weights."""

    name: ClassVar[str]
    """The repository."""
    mark: ClassVar[str]
    """A file that a checkout of it has."""
    algorithms: ClassVar[Sequence[Algorithm]]

    network: nn.Module
    """Their supernet, with a stem, cells and a classifier."""
    alpha: Sequence[Tensor]
    """The logits (14, 8) of the normal cells and those of the reduction cells."""

    def __init__(self, path: Path, layout: str, size: Size, algorithm: Algorithm) -> None:
        self.algorithm, self.criterion = algorithm, nn.CrossEntropyLoss()
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(size.batch, 3, 32, 32, generator=generator)
        self.x = images.contiguous(memory_format=LAYOUTS[layout])
        self.y = torch.randint(0, 10, (size.batch,), generator=generator)
        with self.modules(path) as modules:
            torch.manual_seed(0)  # an import may have drawn
            self.build(modules, layout, size)

    @staticmethod
    @abstractmethod
    def modules(path: Path) -> AbstractContextManager[Any]:
        """What their code is to be run in, on a CPU; its value has what is needed of it."""

    @abstractmethod
    def build(self, modules: Any, layout: str, size: Size) -> None:
        """Makes the network and the optimizers."""

    def double(self) -> None:
        """Computes in float64 from now on."""
        self.network.double()
        self.x = self.x.double()
        for alpha in self.alpha:
            alpha.data = alpha.data.double()

    @abstractmethod
    def step(self) -> None:
        """An alpha step and a weight step, as their search takes them."""

    @abstractmethod
    def gradients(self) -> tuple[Tensor, Tensor]:
        """The loss, and its gradient by alpha or, for sampled candidates, by the weights of those that ran."""

    @abstractmethod
    def candidates(self, edge: nn.Module) -> Iterable[nn.Module]:
        """The candidate operations of an edge."""

    @abstractmethod
    def weights(self) -> Iterable[Tensor]:
        """The parameters that a weight step moves, in all."""
