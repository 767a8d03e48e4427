"""Bounds on the cost of what is derived: kept by construction, and drawn towards during the search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from asose_fast.data.upload import upload
from asose_fast.space.cost import Cost, Costs

NAMES = (
    "derive_max_parameters",
    "derive_max_flops",
    "derive_min_parameters",
    "derive_min_flops",
    "derive_max_latency",
)
"""Of the settings that bound parameters, FLOPs and latency."""

PER_MILLISECOND = 10**6
"""Nanoseconds."""

LATENCY_STEPS = 2000
"""Latencies are rounded up to multiples of the bound divided by this, which is far below what they vary by. Many sums
are equal then, and none that leaves the bound seems to keep it."""

MOST_SUMS = 100_000
"""Beyond so many distinct costs, an error does not look for those nearest to a band."""


Spent = tuple[int, ...]
_State = tuple[float, Spent, tuple[int, ...]]
"""Of a partial path: its score, its costs, its candidates."""


class BudgetError(ValueError):
    """No network that can be derived costs what it should; the message says what is possible."""


class Bound(NamedTuple):
    """One cost that is bounded, from above, from below or both."""

    most: int | None
    least: int | None
    names: tuple[str, str]
    """Of the settings or options for the most and the least."""
    table: Tensor
    """int64 (L, K): of the candidates."""
    fixed: int
    """Of what every derived network has."""
    unit: int = 1
    """People read the cost in this unit."""

    def told(self, cost: int) -> str:
        """The cost as people read it."""
        return f"{cost:,}" if self.unit == 1 else f"{cost / self.unit:.4g}"

    @property
    def cheapest(self) -> int:
        """The cost of the cheapest network."""
        return self.fixed + int(self.table.amin(1).sum())

    @property
    def dearest(self) -> int:
        """The cost of the dearest network."""
        return self.fixed + int(self.table.amax(1).sum())

    def holds(self, costs: Tensor) -> Tensor:
        """Which networks may cost so much: int64 of any shape -> bool of that shape."""
        held = torch.ones_like(costs, dtype=torch.bool)
        if self.most is not None:
            held &= costs <= self.most
        if self.least is not None:
            held &= costs >= self.least
        return held


class Budget(NamedTuple):
    """Parameters and FLOPs at most and at least, of one image and forward, and the most nanoseconds of a batch; None:
    any number. `min_share` is the least FLOPs as a share of the dearest network's, until `resolved` makes a number of
    it."""

    parameters: int | None = None
    flops: int | None = None
    min_parameters: int | None = None
    min_flops: int | None = None
    min_share: float = 0.0
    latency: int | None = None

    def resolved(self, costs: Costs) -> Budget:
        """The budget with `min_share` of the FLOPs of the dearest network within the other bounds, as `min_flops`.

        Raises BudgetError where no network is within those.
        """
        if not self.min_share:
            return self
        others = self._replace(min_share=0.0)
        dearest = path_cost(best_path(costs.flops.double(), costs, others), costs).flops
        return others._replace(min_flops=max(self.min_flops or 1, math.ceil(self.min_share * dearest)))

    def bounds(self, costs: Costs, names: Sequence[str] = NAMES) -> list[Bound]:
        """What is bounded, with the costs of candidates and of the rest."""
        found = (
            Bound(self[i], self[i + 2], (names[i], names[i + 2]), costs[i], costs.fixed[i])  # type: ignore[arg-type]
            for i in range(2)
        )
        kept = [bound for bound in found if (bound.most, bound.least) != (None, None)]
        if self.latency is None:
            return kept
        if costs.latency is None:
            raise ValueError("the latencies of the candidates have not been measured")
        step = max(1, self.latency // LATENCY_STEPS)
        table = -(-costs.latency // step) * step
        return [*kept, Bound(self.latency, None, (names[4], ""), table, costs.fixed_latency, PER_MILLISECOND)]

    @property
    def any(self) -> bool:
        """Whether there is a bound."""
        return self != Budget()


class Band:
    """What a partial path may have spent on its first rows, for each of the bounds."""

    def __init__(self, bounds: Sequence[Bound]) -> None:
        """Subtracts from the bounds what the rows to come cost at most and at least."""
        self._limits: list[list[tuple[float, float, float, float]]] = []
        for bound in bounds:
            most = math.inf if bound.most is None else bound.most - bound.fixed
            least = -math.inf if bound.least is None else bound.least - bound.fixed
            low, high = (
                [*rows.flip(0).cumsum(0).flip(0).tolist(), 0] for rows in (bound.table.amin(1), bound.table.amax(1))
            )
            self._limits.append([(least - h, least - x, most - h, most - x) for x, h in zip(low, high, strict=True)])

    def possible(self, rows: int, spent: Spent) -> bool:
        """Whether each cost by itself can still come to lie within its bounds."""
        return all(limits[rows][0] <= s <= limits[rows][3] for limits, s in zip(self._limits, spent, strict=True))

    def box(self, rows: int, spent: Spent) -> Tensor:
        """The least and the most that others have spent which such a path replaces, int64 (2, bounds): as much, more
        where it is assured of the lower bound, and less where it is assured of the upper one."""
        least, most = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max
        sides = zip(spent, self.assured(rows, spent), strict=True)
        corners = [(least if upper else s, most if lower else s) for s, (lower, upper) in sides]
        return torch.tensor(corners, dtype=torch.int64).reshape(-1, 2).T

    def assured(self, rows: int, spent: Spent) -> list[tuple[bool, bool]]:
        """Whether each cost ends above its lower and below its upper bound, whatever the rows to come take."""
        return [(s >= limits[rows][1], s <= limits[rows][2]) for limits, s in zip(self._limits, spent, strict=True)]


def path_cost(path: list[int], costs: Costs) -> Cost:
    """Of the network that `path` derives."""
    rows = torch.arange(len(path)), torch.tensor(path)
    spent = (int(table[rows].sum()) for table in (costs.parameters, costs.flops))
    return Cost(*(fixed + more for fixed, more in zip(costs.fixed, spent, strict=True)))


def best_path(scores: Tensor, costs: Costs, budget: Budget, names: Sequence[str] = NAMES) -> list[int]:
    """The path k_1, ..., k_L of the largest sum_l scores[l, k_l] among those within the budget.

    Exact: row by row, of all partial paths that can be completed those stay that no other one replaces. Another one of
    no smaller score does so where each of its costs is the same, is lower and assured of the lower bound, or is higher
    and assured of the upper bound. Of equal scores the cheaper one wins, then the first.

    Args:
        scores: (L, K), the logarithms of the architecture's probabilities, say.
        costs: of the candidates.
        budget: of the whole network.
        names: of its bounds, in errors.

    Raises BudgetError.
    """
    bounds = budget.bounds(costs, names)
    band = Band(bounds)
    front: list[_State] = [(0.0, (0,) * len(bounds), ())]
    for row in range(len(scores)):
        values = scores[row].tolist()
        prices = [tuple(int(bound.table[row, k]) for bound in bounds) for k in range(len(values))]
        grown = [
            (score + values[k], tuple(s + p for s, p in zip(spent, prices[k], strict=True)), (*taken, k))
            for score, spent, taken in front
            for k in range(len(values))
        ]
        front = _irreplaceable([state for state in grown if band.possible(row + 1, state[1])], band, row + 1)
    if not front:
        raise BudgetError(unreachable(bounds))
    return list(max(front, key=lambda state: state[0])[2])


_TOGETHER = 256
"""So many partial paths are compared with the others at once."""


def _irreplaceable(states: list[_State], band: Band, rows: int) -> list[_State]:
    """Those that no other one replaces. A path replaces others, of no larger score, whose costs lie in its box."""
    if not states:
        return []
    states = sorted(states, key=lambda s: (-s[0], s[1]))
    spent = torch.tensor([s[1] for s in states], dtype=torch.int64)
    boxes = spent.new_empty((0, 2, *spent.shape[1:]))
    kept: list[int] = []
    for part in torch.arange(len(states)).split(_TOGETHER):
        left, found = part[~_within(spent[part], boxes)], []
        while len(left):
            kept.append(int(left[0]))
            found.append(band.box(rows, states[kept[-1]][1]))
            left = left[1:][~_within(spent[left[1:]], found[-1][None])]
        boxes = torch.cat([boxes, *(box[None] for box in found)])
    return [states[i] for i in kept]


def _within(costs: Tensor, boxes: Tensor) -> Tensor:
    """Which costs (N, B) lie in one of the boxes (M, 2, B), between its corners: bool (N,)."""
    return ((boxes[:, 0] <= costs[:, None]) & (costs[:, None] <= boxes[:, 1])).all(2).any(1)


def unreachable(bounds: Sequence[Bound]) -> str:
    """Says which bounds no network keeps, and what is possible."""
    parts = []
    for bound in bounds:
        if bound.least is not None:
            parts.append(f"{bound.names[1]} = {bound.told(bound.least)} (the most is {bound.told(bound.dearest)})")
        if bound.most is not None:
            parts.append(f"{bound.names[0]} = {bound.told(bound.most)} (the least is {bound.told(bound.cheapest)})")
    return f"no network of this space is within {' and '.join(parts)}{''.join(map(_nearest, bounds))}"


def _nearest(bound: Bound) -> str:
    if bound.least is None or bound.most is None or bound.least > bound.dearest or bound.most < bound.cheapest:
        return ""
    sums = {bound.fixed}
    for row in bound.table.tolist():
        sums = {cost + price for cost in sums for price in set(row)}
        if len(sums) > MOST_SUMS:
            return ""
    if bool(bound.holds(torch.tensor(list(sums))).any()):
        return ""
    below, above = (max(s for s in sums if s < bound.least), min(s for s in sums if s > bound.most))
    return f"; nothing lies between {bound.names[1]} and {bound.names[0]}: the nearest are {below:,} and {above:,}"


def penalty(logits: Tensor, costs: Costs, budget: Budget) -> Tensor:
    """sum over what is bounded of relu(E[cost] / most - 1) + relu(1 - E[cost] / least), a scalar function of `logits`
    (L, K); E is over independent choices k_l ~ softmax(logits_l)."""
    probabilities = logits.softmax(1)
    total = logits.new_zeros(())
    for bound in budget.bounds(costs):
        expected = bound.fixed + (probabilities * upload(bound.table, logits.device).to(logits.dtype)).sum()
        if bound.most is not None:
            total = total + torch.relu(expected / bound.most - 1)
        if bound.least is not None:
            total = total + torch.relu(1 - expected / bound.least)
    return total
