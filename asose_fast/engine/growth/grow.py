"""Growth: when, where, and how the optimizers follow (docs/concepts.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from asose_fast.config import GrowthConfig
from asose_fast.engine.alpha.selector import Selector
from asose_fast.space.network import Network, NetworkSpec
from asose_fast.space.widen import widen as widen_network

Carry = Callable[[str, Tensor], Tensor]
"""Takes an entry of an optimizer's state, by its name, from a parameter to the one that replaces it."""


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


def next_stage(spec: NetworkSpec) -> int:
    """Which stage gets wider next: the narrowest beside the widths at the start, else the later."""
    return -min((w / p, -stage) for stage, (w, p) in enumerate(zip(spec.widths, spec.proportions, strict=True)))[1]


def deepen(
    network: Network,
    selector: Selector,
    weight_optimizer: torch.optim.Optimizer,
    alpha_optimizer: torch.optim.Optimizer,
    position: int,
) -> None:
    """Inserts a block and its row of alpha at `position`; function, momentum and Adam state are kept.

    The next step of every old parameter is the one that it would have made, but for a gradient clipped by its norm.
    """
    network.deepen(position)
    selector.insert_layer(position)
    _hold(weight_optimizer, network.parameters())
    _hold(alpha_optimizer, selector.alpha)


def widen(
    network: Network, weight_optimizer: torch.optim.Optimizer, stage: int, channels: int, *, noise: float = 0.0
) -> None:
    """Gives a stage more channels; the function is kept, and momentum is carried as `space.widen.widen` says."""
    replaced = widen_network(network, stage, channels, noise=noise)

    def carry(as_gradient: Callable[[Tensor], Tensor]) -> Carry:
        return lambda _, momentum: as_gradient(momentum)

    _carry(weight_optimizer, {r.old: (r.new, carry(r.as_gradient)) for r in replaced})
    _hold(weight_optimizer, network.parameters())


def add_candidate(
    network: Network,
    selector: Selector,
    weight_optimizer: torch.optim.Optimizer,
    alpha_optimizer: torch.optim.Optimizer,
    name: str,
) -> None:
    """Gives every block a further candidate, which opens from weight 0 (`Selector`); all state is kept.

    Adam takes the second moment of a new logit to be the mean over the layer's: at 0, among old step counts, it would
    make the first steps many times too long. The next step of every old parameter and logit is the one that it would
    have made.
    """

    def carry(key: str, value: Tensor) -> Tensor:
        return torch.cat([value, value.mean(0, keepdim=True) if key == "exp_avg_sq" else value.new_zeros(1)])

    network.add_candidate(name)
    _carry(alpha_optimizer, {old: (new, carry) for old, new in selector.add_candidate(name)})
    _hold(weight_optimizer, network.parameters())
    _hold(alpha_optimizer, selector.alpha)


def _carry(optimizer: torch.optim.Optimizer, replaced: dict[Tensor, tuple[Tensor, Carry]]) -> None:
    """Hands state on to the parameters that take the place of others: what is in their shape changes as they do."""
    for old, (new, carry) in replaced.items():
        if old in optimizer.state:
            state = optimizer.state.pop(old).items()
            optimizer.state[new] = {
                key: carry(key, value) if isinstance(value, Tensor) and value.shape == old.shape else value
                for key, value in state
            }


def _hold(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Makes an optimizer hold `parameters`, in their order: that of a resumed run, whose sums round alike."""
    optimizer.param_groups[0]["params"] = list(parameters)
