"""The networks that a found one is compared with: random ones of its space, and a plain one, of its size."""

from __future__ import annotations

import dataclasses
import functools
import math
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from asose_fast.config import SpaceConfig
from asose_fast.engine.alpha.budget import Budget
from asose_fast.engine.alpha.random_paths import random_paths
from asose_fast.space.build import spec_from_dict
from asose_fast.space.cost import Cost, candidate_costs, cost_of
from asose_fast.space.geometry import StemStride
from asose_fast.space.network import STAGES, NetworkSpec
from asose_fast.space.prune import pruned_spec
from asose_fast.store import checkpoint

PLAIN = {
    "skip_connect": "four convolutions",
    "nor_conv_3x3": "seven convolutions",
    "res_conv_3x3": "a small ResNet of ten convolutions",
}
"""A plain network has one of these in every block of three stages, and then is this (docs/spaces.md)."""
WIDEST = 4096
"""The stem of a plain network has at most so many channels."""
SPARE = 4
"""So many times as many paths are drawn as are asked for: some give the same network, or the found one."""


class Band(NamedTuple):
    """Networks within it are of one size."""

    parameters: float
    """The parameters differ by at most this share."""
    flops: float
    """The FLOPs differ by at most this share."""

    def around(self, cost: Cost) -> Budget:
        """Returns the bounds that a network of the size of `cost` keeps."""
        pairs = list(zip(cost, self, strict=True))
        most, least = ([math.floor(c * (1 + b)) for c, b in pairs], [math.ceil(c * (1 - b)) for c, b in pairs])
        return Budget(*most, *least)

    def distance(self, cost: Cost, other: Cost) -> float:
        """Returns how far two costs are apart, max_i |ln(cost_i / other_i)| / band_i."""
        return max(abs(math.log(c / o)) / b for c, o, b in zip(cost, other, self, strict=True))

    @property
    def words(self) -> str:
        """Says what is of one size."""
        return f"within {100 * self.parameters:.0f} % in parameters and {100 * self.flops:.0f} % in FLOPs"

    @property
    def reason(self) -> str:
        """Says why a band is taken that is not the narrowest."""
        return "" if self == BANDS[0] else f", since too few are {BANDS[0].words}"


BANDS = (Band(0.10, 0.05), Band(0.20, 0.10), Band(0.40, 0.20))
"""A wider band is taken where the one before has too few networks."""


def searched_space(run: Path, found: NetworkSpec, candidates: tuple[str, ...]) -> NetworkSpec:
    """Returns the supernet from which a run derived `found`, as its checkpoint says.

    Where that is missing, as beside a network that was derived later, the blocks are those of `found`, each with
    `candidates`. Raises CheckpointError and ValueError for a checkpoint that cannot be read.
    """
    kept = run / "checkpoints" / "supernet.pt"
    if kept.exists():
        space = spec_from_dict(checkpoint.load(kept)["spec"])
        if isinstance(space, NetworkSpec):
            return space
    names = tuple(dict.fromkeys((*candidates, *found.operations)))
    return dataclasses.replace(found, blocks=tuple(dataclasses.replace(b, candidates=names) for b in found.blocks))


def random_networks(
    space: NetworkSpec, found: NetworkSpec, image_size: int, count: int, seed: int
) -> tuple[list[NetworkSpec], Band]:
    """Returns `count` networks of `space`, drawn uniformly among those of the size of `found`, and the band.

    They differ from each other and from `found`, without blocks that compute nothing. The band is the narrowest that
    has so many. Raises ValueError where even the widest has fewer.
    """
    costs, own = candidate_costs(space, image_size), cost_of(found, image_size)
    for band in BANDS:
        paths = random_paths(costs, band.around(own), SPARE * count, torch.Generator().manual_seed(seed))
        different = dict.fromkeys(pruned_blocks(space.derive(path)) for path in paths)
        networks = [network for network in different if network != found][:count]
        if len(networks) == count:
            return networks, band
    advice = f"give --random {len(networks)}" if len(networks) > 1 else "the search had nothing to choose at this size"
    raise ValueError(f"only {len(networks)} random networks are {band.words}, where {count} are asked for: {advice}")


def pruned_blocks(network: NetworkSpec) -> NetworkSpec:
    """Returns the spec of a derived network without the blocks that compute nothing."""
    pruned = pruned_spec(network)
    assert isinstance(pruned, NetworkSpec)
    return pruned


def plain_network(
    own: Cost, in_channels: int, classes: int, image_size: int, stem_stride: StemStride = 1
) -> NetworkSpec:
    """Returns the plain network whose cost is nearest to `own`: one operation everywhere, of the width that fits."""
    plain = functools.partial(
        _plain, in_channels=in_channels, classes=classes, image_size=image_size, stem_stride=stem_stride
    )

    @functools.cache
    def cost(operation: str, channels: int) -> Cost:
        return cost_of(plain(operation, channels), image_size)

    def widths(operation: str) -> Iterator[int]:
        """Those between the width of as many parameters and that of as many FLOPs."""
        every = range(1, WIDEST)
        ends = [1 + bisect_left(every, own[i], key=lambda channels: cost(operation, channels)[i]) for i in range(2)]
        yield from range(max(1, min(ends) - 1), min(WIDEST, max(ends)) + 1)

    sizes = [(operation, channels) for operation in PLAIN for channels in widths(operation)]
    operation, channels = min(sizes, key=lambda size: BANDS[0].distance(cost(*size), own))
    return plain(operation, channels)


def _plain(
    operation: str, channels: int, in_channels: int, classes: int, image_size: int, stem_stride: StemStride
) -> NetworkSpec:
    config = SpaceConfig("stages", channels, depth=STAGES, candidates=(operation,), stem_stride=stem_stride)
    return NetworkSpec.stages(config, in_channels, classes, image_size)
