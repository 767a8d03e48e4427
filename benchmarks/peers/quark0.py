"""github.com/quark0/darts, the reference implementation of DARTS.

Their code is imported as it is, for a CPU and the PyTorch of today, with these changes in this process alone: `.cuda()`
of tensors and modules returns them as they are; train_search.py, which is no Python since 3.7 (`async`), is not
imported, and the body of its loop is `Quark0.step`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.peers import settings
from benchmarks.peers.peer import Peer, Size
from benchmarks.steps import LAYOUTS


@contextlib.contextmanager
def their_modules(path: Path) -> Iterator[Any]:
    """Their `model_search` and `architect`, on a CPU."""

    def here(self: Any, *arguments: object, **options: object) -> Any:
        return self

    with (
        mock.patch.object(sys, "path", [str(path / "cnn"), *sys.path]),
        mock.patch.object(Tensor, "cuda", here),
        mock.patch.object(nn.Module, "cuda", here),
    ):
        import architect
        import model_search

        yield SimpleNamespace(Network=model_search.Network, Architect=architect.Architect)


class Quark0(Peer):
    """Their search at first order."""

    name, mark, algorithms = "quark0/darts", "cnn/model_search.py", ("darts",)

    modules = staticmethod(their_modules)

    def build(self, modules: Any, layout: str, size: Size) -> None:
        network = modules.Network(size.channels, 10, size.cells, self.criterion)
        self.network = network.to(memory_format=LAYOUTS[layout])
        arguments = SimpleNamespace(
            momentum=settings.MOMENTUM,
            weight_decay=settings.DECAY,
            arch_learning_rate=settings.ALPHA_RATE,
            arch_weight_decay=settings.ALPHA_DECAY,
        )
        self.architect = modules.Architect(self.network, arguments)
        self.alpha = self.network.arch_parameters()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), settings.RATE, settings.MOMENTUM, weight_decay=settings.DECAY
        )

    def step(self) -> None:
        """What the loop of train_search.py does with a batch for each."""
        self.architect.step(self.x, self.y, self.x, self.y, settings.RATE, self.optimizer, unrolled=False)
        self.optimizer.zero_grad()
        loss = self.criterion(self.network(self.x), self.y)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.CLIP)
        self.optimizer.step()

    def gradients(self) -> tuple[Tensor, Tensor]:
        loss = self.network._loss(self.x, self.y)
        return loss.detach(), torch.cat(torch.autograd.grad(loss, self.alpha))

    def candidates(self, edge: nn.Module) -> Iterable[nn.Module]:
        return edge._ops

    def weights(self) -> Iterable[Tensor]:
        return self.network.parameters()
