"""The budget of a run is kept by one object, for whatever supernet the run has at the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from asose_fast.config import BudgetConfig
from asose_fast.engine.alpha.budget import NAMES, PER_MILLISECOND, Budget, BudgetError, best_path, penalty
from asose_fast.space.build import ImageNetwork, Spec, spec_from_dict
from asose_fast.space.cost import Costs, candidate_costs
from asose_fast.space.latency import Latencies, Target, candidate_latencies
from asose_fast.space.network import Network
from asose_fast.space.supernet import Supernet, SupernetSpec


class BudgetKeeper:
    """The budget of a run, for whatever supernet it has at the time."""

    def __init__(self, config: BudgetConfig, image_size: int, names: Sequence[str] = NAMES) -> None:
        """`names`: of the bounds in errors, in the order of `NAMES`."""
        self.budget = Budget(
            config.derive_max_parameters,
            config.derive_max_flops,
            config.derive_min_parameters,
            config.derive_min_flops,
            config.derive_min_share,
            None if config.derive_max_latency is None else round(config.derive_max_latency * PER_MILLISECOND),
        )
        self.target = Target.of(config)
        self._names = names
        self._image_size = image_size
        self._costs: tuple[SupernetSpec, Costs, Budget] | None = None
        self._latencies: dict[SupernetSpec, Latencies] = {}

    def choose(self, network: Supernet, scores: Tensor) -> list[int]:
        """The best architecture by `scores` (L, K) within the budget. Raises BudgetError where none is."""
        if not self.binds(network):
            return network.choose(scores)
        costs, budget = self.of(network)
        return best_path(scores, costs, budget, self._names)

    def binds(self, network: Supernet) -> bool:
        """Whether there is a bound on what `network` derives. A share is none where no costs of rows are known."""
        return self.budget.any and (isinstance(network, Network) or self.budget._replace(min_share=0.0).any)

    def penalty(self, network: Supernet, logits: Tensor) -> Tensor:
        """See the function."""
        return penalty(logits, *self.of(network))

    def costs(self, network: Supernet) -> Costs:
        """Of the candidates, as of the last `measured`. Raises as that."""
        return self.of(network)[0]

    def measured(self, network: Supernet) -> Costs:
        """Of the candidates of a network for images.

        Raises BudgetError for another network, and ValueError where costs are no sums over rows of alpha.
        """
        if not isinstance(network, ImageNetwork):
            raise BudgetError("bounds on the derived network are for the spaces chain, stages, mobile and nasbench201")
        return self._of_spec(network.spec)

    def _of_spec(self, spec: Spec) -> Costs:
        costs = candidate_costs(spec, self._image_size)
        return self.timed(spec, costs, lambda: candidate_latencies(spec, self._image_size, self.target))

    def timed(self, spec: SupernetSpec, costs: Costs, measure: Callable[[], Latencies]) -> Costs:
        """`costs` with the latencies of a supernet, measured where a bound asks for them and there are none yet."""
        if self.budget.latency is None:
            return costs
        if spec not in self._latencies:
            self._latencies[spec] = measure()
        latencies = self._latencies[spec]
        return costs._replace(latency=latencies.table(), fixed_latency=latencies.rest.low)

    def require_kept(self, spec: Spec) -> None:
        """Raises BudgetError where no network that could be derived from the supernet of `spec` keeps the bounds."""
        budget = self.budget._replace(min_share=0.0)  # a share can always be kept
        if budget.any:
            costs = self._of_spec(spec)
            best_path(torch.zeros(costs.flops.shape), costs, budget, self._names)

    def state_dict(self) -> list[dict[str, Any]]:
        """Returns what was measured, so that a run that goes on decides by the same latencies."""
        return [{"spec": spec.to_dict(), **measured.to_dict()} for spec, measured in self._latencies.items()]

    def load_state_dict(self, state: Sequence[dict[str, Any]]) -> None:
        """Inverts `state_dict`."""
        self._latencies = {self.spec_from_dict(one["spec"]): Latencies.from_dict(one) for one in state}
        self._costs = None

    def spec_from_dict(self, values: dict[str, Any]) -> SupernetSpec:
        """Inverts `to_dict` of the supernets' specs."""
        return spec_from_dict(values)

    def predicted(self, network: Supernet, path: Sequence[int]) -> int | None:
        """Returns the nanoseconds that the network of a path should take; None without a bound on them."""
        if self.budget.latency is None:
            return None
        costs = self.costs(network)
        assert costs.latency is not None
        return costs.fixed_latency + int(costs.latency[torch.arange(len(path)), torch.tensor(path)].sum())

    def of(self, network: Supernet) -> tuple[Costs, Budget]:
        """The costs of the candidates, and the budget with the share as a number, computed when the spec is a new one.

        Raises as `measured`, and BudgetError where no network is within the other bounds of a share.
        """
        spec = network.spec
        if self._costs is None or self._costs[0] != spec:
            costs = self.measured(network)
            self._costs = (spec, costs, self.budget.resolved(costs))
        return self._costs[1:]
