"""How large and how expensive the networks can be that are derived from a supernet."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from asose_fast.space.network import Network, NetworkSpec


class Cost(NamedTuple):
    """Of the largest network that can be derived, whatever the architecture weights come to be."""

    parameters: int
    flops: int
    """Of the convolutions and the classifier for one image, forward; a multiplication with its addition counts 2."""


@torch.no_grad()
def largest_derived(spec: NetworkSpec, image_size: int) -> Cost:
    """Sums over stem, blocks and classifier, with the largest candidate of each block: the most parameters and, on its
    own, the most FLOPs. Nothing is computed: the modules have no memory."""
    with torch.device("meta"):
        network = Network(spec).eval()
        x = torch.empty(1, spec.in_channels, image_size, image_size)
    fixed = _measure(network.stem, x)
    parameters, flops, x = _parameters(network.stem), fixed[0], fixed[1]
    for block in network.evolvable_blocks():
        ops = list(block.mixed.ops.values())
        parameters += block.gain.numel() + max(map(_parameters, ops))
        flops += max(_measure(op, x)[0] for op in ops)
        x = block.shortcut(x)
        if block.project is not None:
            more, x = _measure(block.project, x)
            parameters, flops = parameters + _parameters(block.project), flops + more
    return Cost(parameters + _parameters(network.head), flops + _measure(network.head, x)[0])


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _measure(module: nn.Module, x: torch.Tensor) -> tuple[int, torch.Tensor]:
    with FlopCounterMode(display=False) as counter:
        y = module(x)
    return counter.get_total_flops(), y
