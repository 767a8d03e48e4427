"""github.com/automl/ConfigurableOptimizer, the package confopt: a library of one-shot searches.

A step is their `ConfigurableTrainer._train_epoch` on a loader of one batch, with a sampler of theirs. Their code is
imported as it is, with these changes in this process alone:

- Packages that the step does not need are given as stand-ins (`UNUSED`), so that none of them has to be installed. thop
  would count the FLOPs of the candidates once, before the first step, for a regularizer that is off.
- What is for their log alone, statistics of all gradients at every step, and what an epoch does once are left out
  (`UNTIMED`).
- torch says that it has no CUDA.
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

from asose_fast.data.torchvision_compat import import_torchvision
from benchmarks.peers import settings
from benchmarks.peers.peer import Peer, Size
from benchmarks.steps import LAYOUTS

UNUSED = (
    "ConfigSpace", "fvcore", "fvcore.common", "fvcore.common.checkpoint", "gdown", "nasbench", "reinmax", "seaborn",
    "skimage", "thop", "wandb",
)  # fmt: skip
UNTIMED = ("train", "update_arch_params_grad_stats", "update_cell_grad_stats", "update_layer_alignment_scores")


@contextlib.contextmanager
def stand_ins(names: Iterable[str]) -> Iterator[None]:
    """Puts mocks in the place of modules that are not imported yet, inside the block.

    `profile` is that of thop, which a mixed operation calls at its first forward pass: FLOPs and parameters.
    """
    given = [name for name in names if name not in sys.modules]
    for name in given:
        sys.modules[name] = mock.MagicMock(**{"profile.return_value": (0.0, 0.0)})
    try:
        yield
    finally:
        for name in given:
            del sys.modules[name]


@contextlib.contextmanager
def their_modules(path: Path) -> Iterator[Any]:
    """The parts of a search by their library, on a CPU."""
    import_torchvision()
    with (
        mock.patch.object(sys, "path", [str(path / "src"), *sys.path]),
        mock.patch.object(torch.cuda, "is_available", return_value=False),
        stand_ins(UNUSED),
    ):
        from confopt.oneshot.archsampler import DARTSSampler, GDASSampler
        from confopt.searchspace import DARTSSearchSpace
        from confopt.train import ConfigurableTrainer, SearchSpaceHandler

        yield SimpleNamespace(
            Space=DARTSSearchSpace,
            Handler=SearchSpaceHandler,
            Trainer=ConfigurableTrainer,
            samplers={"darts": DARTSSampler, "gdas": GDASSampler},
        )


class Confopt(Peer):
    """Their search by DARTS at first order, or by GDAS."""

    name, mark, algorithms = "confopt", "src/confopt/searchspace/darts/supernet.py", ("darts", "gdas")

    modules = staticmethod(their_modules)

    def build(self, modules: Any, layout: str, size: Size) -> None:
        self.space = modules.Space(C=size.channels, num_classes=10, layers=size.cells)
        self.network, self.alpha = self.space.model, self.space.arch_parameters
        self.handler = modules.Handler(modules.samplers[self.algorithm](self.alpha))
        self.handler.adapt_search_space(self.space)
        self.space.to(memory_format=LAYOUTS[layout])
        weights = self.space.model_weight_parameters()
        self.trainer = modules.Trainer(
            model=self.space,
            data=None,
            model_optimizer=torch.optim.SGD(weights, settings.RATE, settings.MOMENTUM, weight_decay=settings.DECAY),
            arch_optimizer=torch.optim.Adam(
                self.alpha, settings.ALPHA_RATE, settings.ALPHA_BETAS, weight_decay=settings.ALPHA_DECAY
            ),
            scheduler=None,
            criterion=self.criterion,
            logger=None,
            batch_size=size.batch,
        )
        self.trainer.update_sample_function(self.handler, self.space, calling_frequency="epoch")
        for name in UNTIMED:
            setattr(self.space, name, lambda: None)

    def step(self) -> None:
        loader, trainer = [(self.x, self.y)], self.trainer
        optimizers = trainer.model_optimizer, trainer.arch_optimizer
        trainer._train_epoch(self.handler, loader, loader, self.space, self.criterion, *optimizers, print_freq=1)

    def gradients(self) -> tuple[Tensor, Tensor]:
        loss = self.criterion(self.space(self.x)[1], self.y)
        if self.algorithm == "darts":
            return loss.detach(), torch.cat(torch.autograd.grad(loss, self.alpha))
        sampled = self.space.get_sampled_weights()
        ran = torch.cat(sampled).argmax(1, keepdim=True)
        return loss.detach(), torch.cat(torch.autograd.grad(loss, sampled)).gather(1, ran)

    def candidates(self, edge: nn.Module) -> Iterable[nn.Module]:
        return edge.ops

    def weights(self) -> Iterable[Tensor]:
        used = ("stem", "cells", "classifier")
        return [p for name, p in self.network.named_parameters() if name.partition(".")[0] in used]
