"""The networks that can be derived from a supernet have these sizes and costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.space.build import Spec, build
from asose_fast.space.cells import CellNetwork, CellNetworkSpec
from asose_fast.space.cells.network import BenchCell
from asose_fast.space.network import Network, NetworkSpec
from asose_fast.space.prune import identity

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


class Cost(NamedTuple):
    """A network costs parameters and FLOPs."""

    parameters: int
    flops: int
    """The FLOPs are those of the convolutions and the classifier for one image, forward. A multiplication with its
    addition counts 2."""


class Costs(NamedTuple):
    """These are the costs of all networks that can be derived from a supernet. One costs `fixed` and, for every row of
    alpha, the candidate that it takes."""

    parameters: Tensor
    """int64 (L, K)."""
    flops: Tensor
    """int64 (L, K)."""
    fixed: Cost
    """Every derived network has this cost."""
    latency: Tensor | None = None
    """int64 (L, K), nanoseconds of a batch; None: not measured."""
    fixed_latency: int = 0
    """Every derived network takes so many nanoseconds besides."""

    def of_candidates(self, kept: Tensor) -> Costs:
        """Returns the costs of some candidates, by their numbers."""
        latency = None if self.latency is None else self.latency[:, kept]
        return self._replace(parameters=self.parameters[:, kept], flops=self.flops[:, kept], latency=latency)


@torch.no_grad()
def candidate_costs(spec: Spec, image_size: int) -> Costs:
    """Returns the costs of all candidates in all rows of alpha. Nothing is computed, since the modules have no memory.

    In chain and stages they are those of what is left after `prune`: with a candidate that makes its block the
    identity, the block's gain is not there either. Where every block could be one, the gain of the first counts always.
    So the sum is no less than the network's cost, and above it, by that one parameter, only where the first block goes
    and another stays. In NAS-Bench-201 a row costs what its edge costs in all cells together, and the sum is exact.

    Raises ValueError for the space of DARTS.
    """
    return _cell_costs(spec, image_size) if isinstance(spec, CellNetworkSpec) else _block_costs(spec, image_size)


def _cell_costs(spec: CellNetworkSpec, image_size: int) -> Costs:
    if spec.kind != "nasbench201":
        raise ValueError(
            f"costs of the space {spec.kind} are no sums over rows of alpha: a node keeps two of its edges, and which "
            "two depends on all of its rows"
        )
    with torch.device("meta"):
        network = CellNetwork(spec).eval()
        x = torch.empty(1, spec.in_channels, image_size, image_size)
    parameters, (flops, x) = _parameters(network.stem), _measure(network.stem, x)
    tables = torch.zeros(2, spec.rows, len(spec.normal[0].candidates), dtype=torch.int64)
    for cell in network.cells:
        if isinstance(cell, BenchCell):  # all of its nodes have the shape of x
            edges = [list(mixed.ops.values()) for mixed in cell.mixed_edges()]
            costs = [[Cost(_parameters(op), _measure(op, x)[0]) for op in ops] for ops in edges]
            tables += torch.tensor(costs).permute(2, 0, 1)
        else:
            more, x = _measure(cell, x)
            parameters, flops = parameters + _parameters(cell), flops + more
    fixed = Cost(parameters + _parameters(network.head), flops + _measure(network.head, x)[0])
    return Costs(tables[0], tables[1], fixed)


def _block_costs(spec: NetworkSpec, image_size: int) -> Costs:
    with torch.device("meta"):
        network = Network(spec).eval()
        x = torch.empty(1, spec.in_channels, image_size, image_size)
    parameters, (flops, x) = _parameters(network.stem), _measure(network.stem, x)
    rows: list[list[Cost]] = []
    one_stays = not any(block.reduces for block in spec.blocks)
    for i, block in enumerate(network.evolvable_blocks()):
        row = []
        for name, op in block.mixed.ops.items():
            goes = identity(dataclasses.replace(block.spec, candidates=(name,))) and not (one_stays and i == 0)
            row.append(Cost(_parameters(op) + (0 if goes else block.gain.numel()), _measure(op, x)[0]))
        rows.append(row)
        x = block.shortcut(x)
        if block.project is not None:
            more, x = _measure(block.project, x)
            parameters, flops = parameters + _parameters(block.project), flops + more
    fixed = Cost(parameters + _parameters(network.head), flops + _measure(network.head, x)[0])
    tables = [torch.tensor([[cost[i] for cost in row] for row in rows]) for i in range(2)]
    return Costs(tables[0], tables[1], fixed)


@torch.no_grad()
def cost_of(spec: Spec, image_size: int) -> Cost:
    """Returns the cost of a derived network of any space."""
    with torch.device("meta"):
        network = build(spec).eval()
        x = torch.empty(1, spec.in_channels, image_size, image_size)
    return Cost(_parameters(network), _measure(network, x)[0])


def largest_derived(spec: NetworkSpec, image_size: int) -> Cost:
    """Sums over stem, blocks and classifier, with the largest candidate of each block. It gives the most parameters
    and, on its own, the most FLOPs."""
    costs = candidate_costs(spec, image_size)
    most = (int(table.amax(1).sum()) for table in (costs.parameters, costs.flops))
    return Cost(*(fixed + more for fixed, more in zip(costs.fixed, most, strict=True)))


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _measure(module: nn.Module, x: Tensor) -> tuple[int, Tensor]:
    with counting() as counter:
        y = module(x)
    return counter.get_total_flops(), y


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Counts the FLOPs of convolutions and products of matrices. Transformer layers multiply one by one meanwhile: as
    the one operator that they are in evaluation mode, the counter does not know them."""
    from torch.utils.flop_counter import FlopCounterMode  # with triton, which takes longer than all of this package

    mha = torch.backends.mha
    enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            yield counter
    finally:
        mha.set_fastpath_enabled(enabled)
