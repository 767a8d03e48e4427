"""Accuracy of a derived network, with batch-norm statistics of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from asose_fast.engine.processes import ALONE, Processes
from asose_fast.engine.step.steps import Objective
from asose_fast.engine.step.sync_batch_norm import on_its_own

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Batches, count: int, processes: Processes = ALONE) -> None:
    """Replaces the running statistics of every BatchNorm by the mean over the first `count` batches.

    Of several `processes` each takes `batches` in turn, whole ones, so that the statistics are those of one process.

    Those of a supernet mix all paths that were sampled, and say nothing about one (tests/regressions, fault 4).
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    was_training = network.training
    network.train()
    taken = 0
    with on_its_own(network):
        for x, _ in itertools.islice(batches, len(processes.part.turns(0, count))):
            network(x)
            taken += 1
    network.train(was_training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    if processes.count > 1 and norms:
        _average(norms, taken, processes)


def _average(norms: list[nn.modules.batchnorm._BatchNorm], taken: int, processes: Processes) -> None:
    """The mean of running statistics over all batches, of which this process has taken some."""
    (batches,) = processes.total(taken)
    statistics = [s for norm in norms for s in (norm.running_mean, norm.running_var) if s is not None]
    flat = processes.sum(torch.cat(statistics) * (taken / max(1, batches)))
    for old, new in zip(statistics, flat.split([len(s) for s in statistics]), strict=True):
        old.copy_(new)
    for norm in norms:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(batches)


@torch.no_grad()
def averaged(network: nn.Module, batches: Iterable[tuple[Any, Any]], objective: Objective) -> float:
    """The mean over all examples of what `objective` counts, in evaluation mode."""
    was_training = network.training
    network.eval()
    counted, examples = [], 0
    for x, y in batches:
        result = objective(network(x), y)
        counted.append(result.correct.double())
        examples += result.images
    network.train(was_training)
    return float(torch.stack(counted).sum()) / examples


@torch.no_grad()
def accuracy(network: nn.Module, batches: Batches, processes: Processes = ALONE) -> float:
    """Share of images whose largest score is that of their class, in evaluation mode.

    Of several `processes` each has some of the `batches`; the share is that of all images.
    """
    was_training = network.training
    network.eval()
    correct, images = [], 0
    for x, y in batches:
        correct.append((network(x).argmax(1) == y).sum())
        images += len(y)
    network.train(was_training)
    right = int(torch.stack(correct).sum()) if correct else 0
    right, images = processes.total(right, images)
    return right / images
