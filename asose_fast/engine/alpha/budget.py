"""A bound on the cost of what is derived: kept by construction, and drawn towards during the search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from asose_fast.config import BudgetConfig
from asose_fast.data.upload import upload
from asose_fast.space.cost import Cost, Costs, candidate_costs
from asose_fast.space.network import NetworkSpec
from asose_fast.space.supernet import Supernet

NAMES = ("derive_max_parameters", "derive_max_flops")
"""Of the settings that bound parameters and FLOPs."""


class BudgetError(ValueError):
    """No network that can be derived costs so little; the message says what the least is."""


class Bound(NamedTuple):
    """One cost that is bounded."""

    name: str
    """Of the setting or the option."""
    limit: int
    table: Tensor
    """int64 (L, K): of the candidates."""
    fixed: int
    """Of what every derived network has."""

    @property
    def least(self) -> int:
        """Of the cheapest network."""
        return self.fixed + int(self.table.amin(1).sum())


class Budget(NamedTuple):
    """Parameters and FLOPs at most, of one image and forward; None: any number."""

    parameters: int | None = None
    flops: int | None = None

    def bounds(self, costs: Costs, names: Sequence[str] = NAMES) -> list[Bound]:
        """What is bounded, with the costs of candidates and of the rest."""
        rows = zip(names, self, (costs.parameters, costs.flops), costs.fixed, strict=True)
        return [Bound(name, limit, table, fixed) for name, limit, table, fixed in rows if limit is not None]

    @property
    def any(self) -> bool:
        """Whether there is a bound."""
        return self != Budget()


class BudgetKeeper:
    """The budget of a run, for whatever supernet it has at the time."""

    def __init__(self, config: BudgetConfig, image_size: int, names: Sequence[str] = NAMES) -> None:
        """`names`: of the bounds on parameters and FLOPs, in errors."""
        self.budget, self._names = Budget(config.derive_max_parameters, config.derive_max_flops), names
        self._image_size = image_size
        self._costs: tuple[NetworkSpec, Costs] | None = None

    def choose(self, network: Supernet, scores: Tensor) -> list[int]:
        """The best architecture by `scores` (L, K) within the budget. Raises BudgetError where none is."""
        if not self.budget.any:
            return network.choose(scores)
        return best_path(scores, self.costs(network), self.budget, self._names)

    def penalty(self, network: Supernet, logits: Tensor) -> Tensor:
        """See the function."""
        return penalty(logits, self.costs(network), self.budget)

    def costs(self, network: Supernet) -> Costs:
        """Of the candidates of a chain, computed when its spec is a new one."""
        spec = network.spec
        if not isinstance(spec, NetworkSpec):
            raise BudgetError("bounds on the derived network are for the spaces chain and stages")
        if self._costs is None or self._costs[0] != spec:
            self._costs = (spec, candidate_costs(spec, self._image_size))
        return self._costs[1]


def path_cost(path: list[int], costs: Costs) -> Cost:
    """Of the network that `path` derives."""
    rows = torch.arange(len(path)), torch.tensor(path)
    spent = (int(table[rows].sum()) for table in (costs.parameters, costs.flops))
    return Cost(*(fixed + more for fixed, more in zip(costs.fixed, spent, strict=True)))


def best_path(scores: Tensor, costs: Costs, budget: Budget, names: Sequence[str] = NAMES) -> list[int]:
    """The path k_1, ..., k_L of the largest sum_l scores[l, k_l] among those within the budget.

    Exact: row by row, of all partial paths those stay that no other one beats in score at no greater cost. Of equal
    scores the cheaper one wins, then the first.

    Args:
        scores: (L, K), the logarithms of the architecture's probabilities, say.
        costs: of the candidates.
        budget: of the whole network.
        names: of its bounds, in errors.

    Raises BudgetError.
    """
    bounds = budget.bounds(costs, names)
    tables = [bound.table for bound in bounds]
    left = [bound.limit - bound.fixed for bound in bounds]
    # What the rows still to come cost at least, so that no partial path is kept that cannot be completed.
    least = [[*table.amin(1).flip(0).cumsum(0).flip(0).tolist(), 0] for table in tables]
    front: list[tuple[float, tuple[int, ...], tuple[int, ...]]] = [(0.0, (0,) * len(bounds), ())]
    for row in range(len(scores)):
        values = scores[row].tolist()
        prices = [tuple(int(table[row, k]) for table in tables) for k in range(len(values))]
        room = [limit - rest[row + 1] for limit, rest in zip(left, least, strict=True)]
        grown = [
            (score + values[k], tuple(s + p for s, p in zip(spent, prices[k], strict=True)), (*taken, k))
            for score, spent, taken in front
            for k in range(len(values))
        ]
        front = _undominated([g for g in grown if all(s <= r for s, r in zip(g[1], room, strict=True))])
    if not front:
        raise BudgetError(_unreachable(bounds))
    return list(max(front, key=lambda state: state[0])[2])


def _undominated(
    states: list[tuple[float, tuple[int, ...], tuple[int, ...]]],
) -> list[tuple[float, tuple[int, ...], tuple[int, ...]]]:
    kept: list[tuple[float, tuple[int, ...], tuple[int, ...]]] = []
    for state in sorted(states, key=lambda s: (-s[0], s[1])):
        if not any(all(a <= b for a, b in zip(better[1], state[1], strict=True)) for better in kept):
            kept.append(state)
    return kept


def _unreachable(bounds: list[Bound]) -> str:
    parts = [f"{bound.name} = {bound.limit:,} (the least is {bound.least:,})" for bound in bounds]
    return f"no network of this space is within {' and '.join(parts)}"


def penalty(logits: Tensor, costs: Costs, budget: Budget) -> Tensor:
    """sum over what is bounded of relu(E[cost] / bound - 1), a scalar function of `logits` (L, K); E is over
    independent choices k_l ~ softmax(logits_l)."""
    probabilities = logits.softmax(1)
    total = logits.new_zeros(())
    for bound in budget.bounds(costs):
        expected = bound.fixed + (probabilities * upload(bound.table, logits.device).to(logits.dtype)).sum()
        total = total + torch.relu(expected / bound.limit - 1)
    return total
