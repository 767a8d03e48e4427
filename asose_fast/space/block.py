"""The evolvable block: a mixed operation with a residual gain, or with a projection where it reduces."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from asose_fast.space.mixed import MixedOp


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """What a block is built from; a derived block has a single candidate."""

    candidates: tuple[str, ...]
    in_channels: int
    out_channels: int
    stride: int = 1

    @property
    def reduces(self) -> bool:
        """Whether the block changes the shape, so that no identity can pass through it."""
        return self.stride != 1 or self.in_channels != self.out_channels


class EvolvableBlock(nn.Module):
    """Same shape: y = x + gain * (mixed(x) - x). Reducing: y = BN(conv1x1(ReLU(mixed(x)))).

    The gain is learned. It starts at 0.5, which trains better than 1 (the mixed operation alone) and keeps the signal
    alive where `none` is sampled. The residual is a blend and not a plain sum, so that `skip_connect` is the identity
    whatever the gain (a sum would give 2x), and a block of gain 0 is the identity whatever it samples: the way a new
    block enters (DESIGN section 6). The projection follows the mixed operation, which so runs on fewer channels.
    """

    def __init__(self, spec: BlockSpec, gain: float = 0.5) -> None:
        super().__init__()
        self.spec = spec
        self.mixed = MixedOp(spec.candidates, spec.in_channels, spec.stride)
        self.gain: nn.Parameter | None = None
        self.project: nn.Module | None = None
        if spec.reduces:
            self.project = nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(spec.in_channels, spec.out_channels, 1, bias=False),
                nn.BatchNorm2d(spec.out_channels, affine=False),
            )
        else:
            self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor, weights: Tensor | None = None, index: int | None = None) -> Tensor:
        """Shapes (N, in, H, W) -> (N, out, ceil(H/s), ceil(W/s)); `weights` and `index` as in MixedOp."""
        y: Tensor = self.mixed(x, weights, index, self.gain)
        return y if self.project is None else self.project(y)

    def derive(self, index: int) -> EvolvableBlock:
        """The block with candidate `index` alone. Its modules are this block's own, not copies."""
        name = self.spec.candidates[index]
        with torch.device("meta"):
            block = EvolvableBlock(dataclasses.replace(self.spec, candidates=(name,)))
        block.mixed.ops[name] = self.mixed.ops[name]
        block.gain, block.project = self.gain, self.project
        return block
