"""The networks of a front: of several widths and bounds, each the most probable one that costs no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from asose_fast.config import Config
from asose_fast.engine.alpha.budget import LATENCY_STEPS, Budget, best_path, path_cost
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.comparison.networks import pruned_blocks
from asose_fast.space.build import spec_from_dict
from asose_fast.space.cost import Costs, candidate_costs, cost_of
from asose_fast.space.latency import Target, candidate_latencies
from asose_fast.space.network import NetworkSpec
from asose_fast.store import checkpoint

By = Literal["flops", "parameters", "latency"]
"""A front is one of accuracy and of this cost."""


class Supernet(NamedTuple):
    """The end of a search: what may be derived, and how probable it is."""

    spec: NetworkSpec
    scores: Tensor
    """(L, K), the logarithms of the architecture's probabilities."""


def supernet(run: Path, config: Config) -> Supernet:
    """Reads it from the run's `checkpoints/supernet.pt`. Raises CheckpointError and ValueError."""
    saved = checkpoint.load(run / "checkpoints" / "supernet.pt")
    spec = spec_from_dict(saved["spec"])
    if not isinstance(spec, NetworkSpec):
        raise ValueError(f"{run} has a supernet of cells, and front is for the spaces chain, stages and mobile")
    selector = Selector(config, saved["selector"]["candidates"], 1, config.seed, torch.device("cpu"))
    selector.load_state_dict(saved["selector"])
    return Supernet(spec, selector.logits().detach().log_softmax(1))


def networks(
    supernet: Supernet,
    found: NetworkSpec,
    image_size: int,
    by: By,
    widths: Sequence[float],
    points: int,
    target: Target,
) -> list[NetworkSpec]:
    """Returns the networks of a front, the one of the most FLOPs first, all different; `found` is among them.

    The supernet is made as wide as each of `widths` says, as a share of the run's. In each, bounds stand between the
    cost of its cheapest network, c, and that of its most probable one, C, at equal ratios:

        c (C / c)^(i / (points - 1)),  i = 0, ..., points - 1

    and the network of each bound is the most probable one that costs no more (`best_path`, exact).

    Args:
        by: the cost that is bounded. Latencies of candidates are measured on `target`.
        points: bounds for each width, at least two.
    """
    different = {found: None}
    for width in widths:
        scaled = supernet.spec.scaled(max(1, round(width * supernet.spec.stem_channels)))
        for path in _paths(supernet.scores, _costs(scaled, image_size, by, target), points):
            different[pruned_blocks(scaled.derive(path))] = None
    return sorted(different, key=lambda spec: cost_of(spec, image_size)[::-1], reverse=True)


def _costs(spec: NetworkSpec, image_size: int, by: By, target: Target) -> Costs:
    """Returns the costs of the candidates, those by which the front goes in the place of FLOPs."""
    costs = candidate_costs(spec, image_size)
    if by == "latency":
        measured = candidate_latencies(spec, image_size, target)
        step = max(1, measured.rest.low // LATENCY_STEPS)  # so that many sums are equal
        table, fixed = (measured.table() + step // 2) // step * step, measured.rest.low
    else:
        table, fixed = getattr(costs, by), getattr(costs.fixed, by)
    return costs._replace(flops=table, fixed=costs.fixed._replace(flops=fixed))


def _paths(scores: Tensor, costs: Costs, points: int) -> list[list[int]]:
    """The most probable path under each of the bounds."""
    low = costs.fixed.flops + int(costs.flops.amin(1).sum())
    high = path_cost(scores.argmax(1).tolist(), costs).flops
    ends = [low * (high / low) ** (i / (points - 1)) for i in range(1, points - 1)]
    return [best_path(scores, costs, Budget(flops=round(end))) for end in (low, *ends, high)]
