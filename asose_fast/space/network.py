"""The network: 3x3 stem, a chain of evolvable blocks, global pooling, classifier (DESIGN section 2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from asose_fast.config import SpaceConfig
from asose_fast.space.block import BlockSpec, EvolvableBlock

REDUCTIONS = (1, 3)
"""Blocks that halve the resolution and double the channels."""


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """Everything that a network is built from. `to_dict` and `from_dict` go through JSON."""

    in_channels: int
    classes: int
    stem_channels: int
    blocks: tuple[BlockSpec, ...]

    @staticmethod
    def chain(config: SpaceConfig, in_channels: int, classes: int) -> NetworkSpec:
        """The supernet of `config` for images of `in_channels` channels. Raises ValueError for a bad size."""
        if config.channels < 1 or config.depth < 1:
            raise ValueError(f"channels and depth must be at least 1, got {config.channels} and {config.depth}")
        if len(set(config.candidates)) != len(config.candidates):
            raise ValueError(f"candidates must differ from each other, got {', '.join(config.candidates)}")
        blocks, channels = [], config.channels
        for i in range(config.depth):
            grow = 2 if i in REDUCTIONS else 1
            blocks.append(BlockSpec(config.candidates, channels, channels * grow, stride=grow))
            channels *= grow
        return NetworkSpec(in_channels, classes, config.channels, tuple(blocks))

    @staticmethod
    def from_dict(values: dict[str, Any]) -> NetworkSpec:
        """The inverse of `to_dict`. Raises KeyError or TypeError where a field is missing or unknown."""
        blocks = tuple(BlockSpec(**{**b, "candidates": tuple(b["candidates"])}) for b in values["blocks"])
        return NetworkSpec(**{**values, "blocks": blocks})

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        blocks = [{**dataclasses.asdict(b), "candidates": list(b.candidates)} for b in self.blocks]
        return {**dataclasses.asdict(self), "blocks": blocks}


class Network(nn.Module):
    """Stem, blocks, then BN, ReLU, global average pooling and a linear classifier."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self._spec = spec
        self.stem = nn.Sequential(
            nn.Conv2d(spec.in_channels, spec.stem_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(spec.stem_channels, affine=False),
        )
        self.blocks = nn.ModuleList(EvolvableBlock(block) for block in spec.blocks)
        features = spec.blocks[-1].out_channels
        self.head = nn.Sequential(
            nn.BatchNorm2d(features),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(features, spec.classes),
        )

    @property
    def spec(self) -> NetworkSpec:
        """The spec of the network as it is now, grown or derived."""
        blocks = tuple(block.spec for block in self.evolvable_blocks())
        return dataclasses.replace(self._spec, blocks=blocks)

    def evolvable_blocks(self) -> list[EvolvableBlock]:
        """The blocks in order, typed."""
        return [block for block in self.blocks if isinstance(block, EvolvableBlock)]

    def forward(self, x: Tensor, weights: Tensor | None = None, path: Sequence[int] | None = None) -> Tensor:
        """Class scores (N, classes) of images (N, in_channels, H, W).

        `weights` (L, K) and `path` (L indices) choose the plan of every block as in MixedOp; a derived network needs
        neither.
        """
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(x, None if weights is None else weights[i], None if path is None else path[i])
        y: Tensor = self.head(x)
        return y

    def derive(self, path: Sequence[int]) -> Network:
        """The network with one candidate a block. Its modules, and so its parameters, are this network's own."""
        blocks = [block.derive(k) for block, k in zip(self.evolvable_blocks(), path, strict=True)]
        with torch.device("meta"):
            derived = Network(dataclasses.replace(self.spec, blocks=tuple(block.spec for block in blocks)))
        derived.stem, derived.head, derived.blocks = self.stem, self.head, nn.ModuleList(blocks)
        derived.train(self.training)
        return derived

    def deepen(self, position: int) -> EvolvableBlock:
        """Inserts a block before block `position` (or at the end) that starts as the identity, and returns it.

        The function of the network does not change: the block's gain is 0 (DESIGN section 6).
        """
        blocks = self.evolvable_blocks()
        model = blocks[position - 1] if position else blocks[0]
        channels = model.spec.out_channels if position else model.spec.in_channels
        block = EvolvableBlock(BlockSpec(model.spec.candidates, channels, channels), gain=0.0)
        like = next(self.parameters())
        block.to(like.device, like.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        block.train(self.training)
        self.blocks.insert(position, block)
        return block
