"""Bounds on what is derived from a user's own network."""

from __future__ import annotations

from typing import Any

from asose_fast.config import BudgetConfig
from asose_fast.engine.alpha.budget_keeper import BudgetKeeper
from asose_fast.library.loaders import Passes
from asose_fast.library.objective import size
from asose_fast.space.cost import Costs
from asose_fast.space.custom import CustomNetwork, CustomSpec
from asose_fast.space.custom_cost import custom_costs
from asose_fast.space.custom_latency import custom_latencies
from asose_fast.space.supernet import Supernet


class ModuleBudget(BudgetKeeper):
    """The budget of a search in any module. FLOPs are those of one example, as the first training batch has them."""

    def __init__(self, config: BudgetConfig, batches: Passes) -> None:
        super().__init__(config, image_size=0)
        self._batches = batches

    def binds(self, network: Supernet) -> bool:
        """Whether there is a bound: the costs of rows are known."""
        return self.budget.any

    def measured(self, network: Supernet) -> Costs:
        """Of the candidates, found by running them.

        Raises ValueError for a mixed operation within a candidate, and where a batch has too few examples to be timed.
        """
        assert isinstance(network, CustomNetwork)
        x, y = next(self._batches.batches(0))
        costs = custom_costs(network, x, size(y))
        return self.timed(network.spec, costs, lambda: custom_latencies(network, x, self.target))

    def spec_from_dict(self, values: dict[str, Any]) -> CustomSpec:
        """Inverts `to_dict`."""
        return CustomSpec(values["rows"])
