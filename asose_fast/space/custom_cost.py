"""The networks that can be derived from a user's model have these costs, found by running it on a batch."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from asose_fast.space.cost import Cost, Costs, counting
from asose_fast.space.custom import CustomNetwork
from asose_fast.space.mixed import MixedOp


@torch.no_grad()
def custom_costs(network: CustomNetwork, x: Any, examples: int) -> Costs:
    """Returns the costs of all candidates in all rows of alpha, for one example of the batch `x`, forward.

    Every candidate runs once on what its mixed operation is given, in evaluation mode. FLOPs are those of convolutions
    and products of matrices, as `torch.utils.flop_counter` counts them. A mixed operation that runs twice costs twice
    the FLOPs. Where a row does not have a candidate, the cost of its first one stands, so that it gains nothing there.

    The sum is the cost of the derived network. It is above it where two mixed operations share parameters.

    Args:
        network: the supernet, on the device of `x`.
        x: what its model takes.
        examples: how many `x` has.

    Raises ValueError for a mixed operation within a candidate, since no row alone has its cost.
    """
    inner = {id(m): name for name, op in network.mixed.items() for m in op.ops.modules() if isinstance(m, MixedOp)}
    for name, op in network.mixed.items():
        if id(op) in inner:
            raise ValueError(
                f"costs are no sums over mixed operations: {name!r} is within a candidate of {inner[id(op)]!r}, and "
                "costs something only where that is chosen. Leave out the bounds"
            )
    outside, (flops, rest) = _outside(network), _flops(network, x)
    rows = network.mixed.values()
    parameters = [[_count(set(candidate.parameters()) - outside) for candidate in op.ops.values()] for op in rows]
    flops = [[cost // examples for cost in row] for row in flops]
    of_parameters, of_flops = (torch.tensor(network.by_column(own)) for own in (parameters, flops))
    return Costs(of_parameters, of_flops, Cost(_count(outside), rest // examples))


def _outside(network: CustomNetwork) -> set[nn.Parameter]:
    """Returns the parameters of all modules that are no candidates."""
    within = {id(module) for op in network.mixed.values() for module in op.ops.modules()}
    outside = (module for module in network.model.modules() if id(module) not in within)
    return {parameter for module in outside for parameter in module.parameters(recurse=False)}


def _count(parameters: set[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _flops(network: CustomNetwork, x: Any) -> tuple[list[list[int]], int]:
    """Returns the FLOPs of the candidates by mixed operation, and those of everything outside mixed operations."""
    found = {id(op): [0] * len(op.ops) for op in network.mixed.values()}
    was_training, begun, within = network.training, 0, 0

    def enter(op: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal begun
        begun = counter.get_total_flops()
        assert isinstance(op, MixedOp)
        for k, candidate in enumerate(op.ops.values()):
            before = counter.get_total_flops()
            candidate(args[0])
            found[id(op)][k] += counter.get_total_flops() - before

    def leave(*_: object) -> None:
        nonlocal within
        within += counter.get_total_flops() - begun

    with ExitStack() as held:
        for op in network.mixed.values():
            held.callback(op.register_forward_pre_hook(enter).remove)
            held.callback(op.register_forward_hook(leave).remove)
        held.callback(network.train, was_training)
        held.callback(network.plan)
        counter = held.enter_context(counting())
        network.eval()(x, path=[columns[0] for columns in network.columns])
    return [found[id(op)] for op in network.mixed.values()], counter.get_total_flops() - within
