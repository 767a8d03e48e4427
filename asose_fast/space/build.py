"""This module leads from settings to a network of any space, and back from what was written down."""

from __future__ import annotations

from typing import Any

from asose_fast.config import CELL_CANDIDATES, SpaceConfig
from asose_fast.space.cells import CellNetwork, CellNetworkSpec
from asose_fast.space.network import Network, NetworkSpec
from asose_fast.space.supernet import Supernet

Spec = NetworkSpec | CellNetworkSpec
ImageNetwork = Network | CellNetwork
"""This type has the supernets for images, and the networks that are derived from them."""


def make_spec(config: SpaceConfig, in_channels: int, classes: int, image_size: int | None = None) -> Spec:
    """Returns the spec of the configured space's supernet, for images of `image_size` pixels a side where that is
    known. Raises ValueError for what is none."""
    if config.space in CELL_CANDIDATES:
        return CellNetworkSpec.supernet(config, in_channels, classes)
    kinds = {"chain": NetworkSpec.chain, "stages": NetworkSpec.stages, "mobile": NetworkSpec.mobile}
    return kinds[config.space](config, in_channels, classes, image_size)


def build(spec: Spec) -> ImageNetwork:
    """Returns the network of a spec, with fresh weights."""
    return Network(spec) if isinstance(spec, NetworkSpec) else CellNetwork(spec)


def spec_from_dict(values: dict[str, Any]) -> Spec:
    """Inverts `to_dict`. Raises KeyError, TypeError or ValueError where something is missing or wrong."""
    return CellNetworkSpec.from_dict(values) if "kind" in values else NetworkSpec.from_dict(values)


def of_images(network: Supernet) -> ImageNetwork:
    """`network` itself, as what `build` makes. Raises TypeError for another kind."""
    if not isinstance(network, ImageNetwork):
        raise TypeError(f"this needs a network for images, got {type(network).__name__}")
    return network
