"""Training a derived architecture from scratch, plainly: what searches and random choices are compared by."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from asose_fast.config import Config
from asose_fast.data import Data
from asose_fast.engine.evaluate import accuracy
from asose_fast.engine.step.optimizers import weight_optimizer
from asose_fast.engine.step.steps import weight_step
from asose_fast.space import Network, NetworkSpec

CPU = torch.device("cpu")


class Outcome(NamedTuple):
    """Of the last epoch."""

    train_accuracy: float
    valid_accuracy: float
    test_accuracy: float


def train(spec: NetworkSpec, data: Data, config: Config, *, epochs: int, seed: int) -> Outcome:
    """SGD with the settings of `config` and a cosine to 0, from the initialisation that `seed` gives."""
    torch.manual_seed(seed)
    network = Network(spec).to(CPU, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = weight_optimizer(config, network)
    steps, done = epochs * data.train.num_batches(), 0
    correct = images = 0
    for epoch in range(epochs):
        network.train()
        correct = images = 0
        for x, y in data.train.batches(epoch, augment=config.augment):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (1 + math.cos(math.pi * done / steps)) / 2
            result = weight_step(network, optimizer, x, y, None, clip=config.gradient_clip)
            correct, images, done = correct + int(result.correct), images + result.images, done + 1
    valid, test = (
        accuracy(network, split.batches(0, shuffle=False, augment=False)) for split in (data.valid, data.test)
    )
    return Outcome(correct / images, valid, test)
