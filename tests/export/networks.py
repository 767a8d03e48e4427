"""Derived networks that were never trained, with statistics and gains as if they were, and run folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asose_fast.space import CANDIDATES, BlockSpec, Network, NetworkSpec
from asose_fast.store import derived

HALVES = (tuple(CANDIDATES)[::2], tuple(CANDIDATES)[1::2])
"""The ten candidates in two networks, since a network of five blocks of stride 2 is deep enough."""


def make_derived(
    blocks: Sequence[BlockSpec], in_channels: int = 3, classes: int = 5, space: str = "chain", **stem: Any
) -> Network:
    """In evaluation mode, with parameters, statistics and gains that all matter."""
    network = Network(NetworkSpec(in_channels, classes, blocks[0].in_channels, tuple(blocks), space, **stem))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.5)
            module.running_var.uniform_(0.3, 2.0)
            if module.affine:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    for block in network.evolvable_blocks():
        nn.init.uniform_(block.gain, 0.2, 1.5)
    return network.eval()


def half_of_all(half: int) -> Network:
    """Five candidates at stride 1 and then at stride 2, over channels that are odd, stay, grow and shrink."""
    widths = (
        (5, 5, 1),
        (5, 6, 1),
        (6, 6, 1),
        (6, 5, 1),
        (5, 5, 1),
        (5, 5, 2),
        (5, 7, 2),
        (7, 4, 2),
        (4, 9, 2),
        (9, 3, 2),
    )
    return make_derived([BlockSpec((name,), *w) for name, w in zip(HALVES[half] * 2, widths, strict=True)])


def stages_of_all() -> Network:
    """The candidates of the space stages that the chain has not, with and without what may follow a block, after a stem
    that strides."""
    widths = ((5, 6, True, 3, True), (6, 6, False, 1, False), (6, 4, True, 3, False), (4, 4, True, 3, True))
    names = ("res_conv_3x3", "nor_conv_3x3", "skip_connect", "res_conv_3x3")
    blocks = [BlockSpec((name,), i, o, 1, *rest) for name, (i, o, *rest) in zip(names, widths, strict=True)]
    return make_derived(blocks, space="stages", stem_pool=True, stem_stride=4)


NETWORKS = {"half": lambda: half_of_all(0), "other half": lambda: half_of_all(1), "stages": stages_of_all}
"""Networks which together have every candidate of both spaces."""


def make_run(folder: Path, network: Network, image_size: int | None = 67) -> Path:
    """A run folder with what export reads."""
    spec = network.spec
    folder.mkdir(exist_ok=True)
    derived.save(
        folder,
        network,
        classes=[f"class {k}" for k in range(spec.classes)],
        mean=[0.3 + 0.1 * k for k in range(spec.in_channels)],
        std=[0.5 - 0.1 * k for k in range(spec.in_channels)],
        image_size=image_size,
    )
    return folder


def difference(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest, as a share of the largest value."""
    return float((got - expected).detach().abs().max() / expected.detach().abs().max())
