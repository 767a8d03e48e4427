"""Growth in depth: when to grow, and how the optimizers follow (DESIGN section 6)."""

from __future__ import annotations

import dataclasses

import torch

from asose_fast.config import GrowthConfig
from asose_fast.search.selector import Selector
from asose_fast.space.network import Network


@dataclasses.dataclass
class StallCounter:
    """Counts the epochs since validation accuracy last rose by the threshold."""

    best: float = 0.0
    epochs: int = 0

    def stalled(self, config: GrowthConfig, accuracy: float) -> bool:
        """Takes an epoch's accuracy (0 to 1); True once patience is used up, and the count then starts anew."""
        if 100 * (accuracy - self.best) >= config.growth_threshold:
            self.best, self.epochs = accuracy, 0
            return False
        self.epochs += 1
        if self.epochs < config.growth_patience:
            return False
        self.epochs = 0
        return True


def next_position(network: Network) -> int:
    """Where the next block goes: the end of the stage (blocks of one shape) with the fewest blocks, else the later."""
    ends, length = [], 0
    blocks = network.evolvable_blocks()
    for i, block in enumerate(blocks):
        length = 1 if block.spec.reduces else length + 1
        if i + 1 == len(blocks) or blocks[i + 1].spec.reduces:
            ends.append((length, -(i + 1)))
    return -min(ends)[1]


def deepen(
    network: Network, selector: Selector, weights: torch.optim.Optimizer, alpha: torch.optim.Optimizer, position: int
) -> None:
    """Inserts a block and its row of alpha at `position`; function, momentum and Adam state are kept."""
    weights.param_groups[0]["params"] += list(network.deepen(position).parameters())
    alpha.param_groups[0]["params"].append(selector.insert_layer(position))
