"""Random architectures within a budget, all equally likely."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Iterator

import torch
from torch import Tensor

from asose_fast.engine.alpha.budget import Band, Bound, Budget, BudgetError, Spent, unreachable
from asose_fast.space.cost import Costs

BATCH = 4096
BATCHES = 8
"""So many times, so many uniform paths are drawn of which those within the budget are taken, before paths are counted:
counting is exact, but takes long where costs have many sums."""


def random_paths(
    costs: Costs, budget: Budget, count: int, generator: torch.Generator, allowed: Tensor | None = None
) -> list[list[int]]:
    """Distinct paths within the budget, drawn uniformly without replacement.

    The paths are `count`, or all that there are, in random order. They are the first of uniform draws that are within
    the budget. Where those are rare, the completions of every partial path are counted by its costs, and each path is
    found by its number.

    Args:
        costs: of the candidates, (L, K).
        budget: of the whole network.
        count: of paths, at least 0.
        generator: of the CPU; the paths are a function of its state.
        allowed: bool (L, K), of the candidates that may be taken; None: all of them.

    Raises BudgetError where no path is within the budget, and ValueError for a negative count.
    """
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    bounds = budget.bounds(costs)
    allowed = torch.ones_like(costs.flops, dtype=torch.bool) if allowed is None else allowed
    found: dict[tuple[int, ...], None] = {}
    for _ in range(BATCHES):
        for path in _uniform(bounds, allowed, generator):
            if len(found) < count:
                found[path] = None
        if len(found) >= count:
            return [list(path) for path in found]
    numbered = _Numbered(bounds, allowed)
    if not numbered.total:
        raise BudgetError(unreachable(bounds))
    draws = random.Random(int(torch.randint(2**62, (), generator=generator)))
    if numbered.total <= 2 * count:
        left = [path for path in map(numbered.path, range(numbered.total)) if path not in found]
        draws.shuffle(left)
        return [list(path) for path in [*found, *left][:count]]
    while len(found) < count:
        found[numbered.path(draws.randrange(numbered.total))] = None
    return [list(path) for path in found]


def _uniform(bounds: list[Bound], allowed: Tensor, generator: torch.Generator) -> Iterator[tuple[int, ...]]:
    rows, candidates = allowed.shape
    if allowed.all():
        paths = torch.randint(candidates, (BATCH, rows), generator=generator)
    else:
        paths = torch.multinomial(allowed.double(), BATCH, replacement=True, generator=generator).T
    kept = torch.ones(BATCH, dtype=torch.bool)
    for bound in bounds:
        spent = bound.fixed + bound.table.expand(BATCH, -1, -1).gather(2, paths[..., None]).sum((1, 2))
        kept &= bound.holds(spent)
    return map(tuple, paths[kept].tolist())


class _Numbered:
    """The paths within the bounds, in lexicographic order."""

    def __init__(self, bounds: list[Bound], allowed: Tensor) -> None:
        self._band, self._rows = Band(bounds), len(allowed)
        self._candidates = [row.nonzero().flatten().tolist() for row in allowed]
        tables = [bound.table.tolist() for bound in bounds]
        self._prices = [
            [tuple(t[row][k] for t in tables) for k in range(allowed.shape[1])] for row in range(len(allowed))
        ]
        self._start: Spent = (0,) * len(bounds)
        self._count = functools.cache(self._completions)  # of this object alone
        self.total = self._count(0, self._start)

    def _completions(self, row: int, spent: Spent) -> int:
        if not self._band.possible(row, spent):
            return 0
        if all(map(all, self._band.assured(row, spent))):
            return math.prod(map(len, self._candidates[row:]))
        return sum(self._count(row + 1, self._after(spent, row, k)) for k in self._candidates[row])

    def _after(self, spent: Spent, row: int, k: int) -> Spent:
        return tuple(s + p for s, p in zip(spent, self._prices[row][k], strict=True))

    def path(self, number: int) -> tuple[int, ...]:
        """The path of this number, from 0 to below `total`."""
        taken: list[int] = []
        spent = self._start
        for row in range(self._rows):
            for k in self._candidates[row]:
                after = self._after(spent, row, k)
                ways = self._count(row + 1, after)
                if number < ways:
                    break
                number -= ways
            taken.append(k)
            spent = after
        return tuple(taken)
