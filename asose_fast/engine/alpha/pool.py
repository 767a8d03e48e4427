"""The networks that may be derived from a supernet, and the ways to draw some of them or to choose one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from asose_fast.engine.alpha.budget_keeper import BudgetKeeper
from asose_fast.engine.alpha.evolution import Mutation, evolved
from asose_fast.engine.alpha.final_choice import different_paths, likely_paths, uniform_paths
from asose_fast.engine.alpha.mutation import mutation, mutation_within
from asose_fast.engine.alpha.random_paths import random_paths
from asose_fast.engine.alpha.selector import CLOSED
from asose_fast.space.supernet import Supernet

Measured = Literal["validation", "random", "evolution"]
"""Ways to choose the best of some that are measured (`Pool.best`)."""


class Pool(NamedTuple):
    """All paths within the budget."""

    network: Supernet
    keeper: BudgetKeeper
    scores: Tensor
    """(L, K), the logarithms of the architecture's probabilities. A candidate of `CLOSED` or less is never drawn
    uniformly."""
    seed: int
    """Of all draws."""

    def choose(self, scores: Tensor) -> list[int]:
        """Returns the path of the largest sum of scores. Raises BudgetError where there is none."""
        return self.keeper.choose(self.network, scores)

    def likely(self, count: int) -> list[list[int]]:
        """Returns up to `count` different paths, drawn by alpha however sure it is (`different_paths`)."""
        return different_paths(self.choose, self.scores, count, self.seed)

    def uniform(self, count: int) -> list[list[int]]:
        """Returns up to `count` different paths, all equally likely, whatever alpha is."""
        if not self.keeper.binds(self.network):
            return uniform_paths(self.choose, self.scores, count, self.seed)
        (costs, budget), generator = self.keeper.of(self.network), torch.Generator().manual_seed(self.seed)
        kept = self._allowed.any(0).nonzero().flatten()  # growth closes a column in all rows
        paths = random_paths(costs.of_candidates(kept), budget, count, generator, self._allowed[:, kept])
        return [kept[path].tolist() for path in paths]

    def best(self, by: Measured, among: int, fitness: Callable[[list[int]], float]) -> list[int]:
        """Returns the fittest of some paths, of equal ones the first.

        `validation` measures the most probable one and up to `among` others, drawn by their probability; with 0 it
        measures nothing. `random` measures up to `among` uniform ones, and `evolution` as many that it breeds, from
        uniform ones on (`evolved`).
        """
        if by == "evolution":
            return evolved(self.uniform, self._mutation(), fitness, among, self.seed)
        paths = self.uniform(among) if by == "random" else likely_paths(self.choose, self.scores, among, self.seed)
        return max(paths, key=fitness) if len(paths) > 1 else paths[0]

    def _mutation(self) -> Mutation:
        allowed = self._allowed
        if not self.keeper.binds(self.network):
            return lambda path, draws: mutation(self.choose, allowed, path, draws)
        costs, budget = self.keeper.of(self.network)
        bounds = budget.bounds(costs)
        return lambda path, draws: mutation_within(bounds, allowed, path, draws)

    @property
    def _allowed(self) -> Tensor:
        """Says which candidates may be drawn at all."""
        return (self.scores > CLOSED / 2).cpu()
