"""Accuracy of a derived network, with batch-norm statistics of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

Batches = Iterable[tuple[Tensor, Tensor]]


@torch.no_grad()
def recalibrate(network: nn.Module, batches: Batches, count: int) -> None:
    """Replaces the running statistics of every BatchNorm by the mean over the first `count` batches.

    Those of a supernet mix all paths that were sampled, and say nothing about a single one (DESIGN section 3, fault 4).
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative mean
    was_training = network.training
    network.train()
    for x, _ in itertools.islice(batches, count):
        network(x)
    network.train(was_training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def accuracy(network: nn.Module, batches: Batches) -> float:
    """Share of images whose largest score is that of their class, in evaluation mode."""
    was_training = network.training
    network.eval()
    correct, images = [], 0
    for x, y in batches:
        correct.append((network(x).argmax(1) == y).sum())
        images += len(y)
    network.train(was_training)
    return int(torch.stack(correct).sum()) / images
