"""Answers are what a network says of every image of a split."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asose_fast.data import Split
from asose_fast.engine.processes import ALONE, Processes


class Answers(NamedTuple):
    """They are of the N images of a split in its fixed order, all on the CPU."""

    labels: Tensor
    """int64 (N,): the true classes."""
    predicted: Tensor
    """int64 (N,): the classes of the largest scores."""
    probabilities: Tensor
    """float64 (N,): the softmax of these scores."""
    losses: Tensor
    """float64 (N,): the cross-entropy of each image."""

    @property
    def accuracy(self) -> float:
        """Returns the share of right answers."""
        return int((self.labels == self.predicted).sum()) / len(self.labels)


@torch.no_grad()
def answers(network: nn.Module, split: Split, processes: Processes = ALONE) -> Answers:
    """Reads a split once, in evaluation mode. Several `processes` divide its batches, and all get all answers."""
    was_training = network.training
    network.eval()
    numbers = processes.part.turns(0, split.num_batches())
    found: list[Tensor] = []
    for _, (x, y) in zip(numbers, split.batches(0, shuffle=False, augment=False, turns=processes.part), strict=True):
        scores = network(x).float()
        highest, losses = scores.softmax(1).amax(1), F.cross_entropy(scores, y, reduction="none")
        found.append(torch.stack([part.double() for part in (y, scores.argmax(1), highest, losses)]))
    network.train(was_training)
    rows = [range(number * split.batch_size, min((number + 1) * split.batch_size, len(split))) for number in numbers]
    device = found[0].device if found else next(network.parameters()).device
    everything = torch.zeros(4, len(split), dtype=torch.float64, device=device)
    for row, columns in zip(rows, found, strict=True):
        everything[:, row.start : row.stop] = columns
    labels, said, probabilities, losses = processes.sum(everything).cpu()
    return Answers(labels.long(), said.long(), probabilities, losses)
