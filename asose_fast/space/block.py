"""The evolvable block is a mixed operation with a residual gain, and a projection where channels change."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor, nn

from asose_fast.space.exact import told
from asose_fast.space.mixed import MixedOp
from asose_fast.space.parts import run_on_kernels
from asose_fast.space.shortcut import averaged


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """A block is built from this. A derived block has a single candidate."""

    candidates: tuple[str, ...]
    in_channels: int
    out_channels: int
    stride: int = 1
    project: bool = False
    """A projection may end the block. It does so wherever channels change, and still where growth has made them
    equal."""
    kernel: Literal[1, 3] = 1
    """The projection has a convolution of this kernel. That of 3x3 has a norm with scale and shift, as a layer of a
    plain convolutional network has."""
    pool: bool = False
    """2x2 max pooling ends the projection, which then is one of kernel 3."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "project", self.project or self.in_channels != self.out_channels)

    @property
    def reduces(self) -> bool:
        """Says whether the block changes the shape or projects, so that no identity can pass through it."""
        return self.stride != 1 or self.project


def halving() -> nn.Module:
    """Returns 2x2 max pooling: (N, C, H, W) becomes (N, C, ceil(H / 2), ceil(W / 2))."""
    return nn.MaxPool2d(2, ceil_mode=True)


@told
class EvolvableBlock(nn.Module):
    """y = s + gain * (mixed(x) - s), with the shortcut s = x, or, at stride 2, s = the 2x2 means of x. Where channels
    change, BN(conv1x1(ReLU(.))) of that follows. In the space stages it is maxpool2x2(BN(conv3x3(ReLU(.)))).

    The gain is learned. It starts at 0.5, which trains better than 1 (the mixed operation alone). The shortcut keeps
    the signal, and with it every layer's architecture gradient, alive where `none` is sampled. It is blended and not
    added, so that `skip_connect` is the identity whatever the gain (a sum would give 2x), and a block of gain 0 is the
    identity whatever it samples: the way a new block enters (docs/concepts.md). The projection follows the mixed
    operation, which so runs on fewer channels.
    """

    def __init__(self, spec: BlockSpec, gain: float = 0.5) -> None:
        super().__init__()
        self.spec = spec
        self.mixed = MixedOp.named(spec.candidates, spec.in_channels, spec.stride)
        self.gain = nn.Parameter(torch.tensor(gain))
        self.drop_path = 0.0
        """In training, an image takes the shortcut alone with this probability (arXiv 1605.07648)."""
        self.project: nn.Module | None = None
        if spec.project:
            self.project = nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(spec.in_channels, spec.out_channels, spec.kernel, padding=spec.kernel // 2, bias=False),
                nn.BatchNorm2d(spec.out_channels, affine=spec.kernel == 3),
                *([halving()] if spec.pool else []),
            )

    def forward(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        index: int | None = None,
        kept: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Maps (N, in, H, W) to (N, out, ceil(H/s), ceil(W/s)), or half of that where a pooling ends the projection.

        `weights`, `index` and `kept` are as in MixedOp.
        """
        y = self.mix(x, weights, index, kept)
        return y if self.project is None else run_on_kernels(self.project, y)

    def mix(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        index: int | None = None,
        kept: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Gives what comes before the projection."""
        shortcut = self.shortcut(x)
        if not self.drops:
            y: Tensor = self.mixed(x, weights, index, kept, gain=self.gain, shortcut=shortcut)
            return y
        mixed: Tensor = self.mixed(x, weights, index, kept)
        return shortcut + self._kept_paths(x) * self.gain * (mixed - shortcut)

    @property
    def drops(self) -> bool:
        """Says whether images take the shortcut alone now and then."""
        return self.training and self.drop_path > 0

    def _kept_paths(self, x: Tensor) -> Tensor:
        """Draws a factor for each image, (N, 1, 1, 1): 0 with probability `drop_path`, else 1 / (1 - drop_path)."""
        kept = torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype) >= self.drop_path
        return kept / (1 - self.drop_path)

    def shortcut(self, x: Tensor) -> Tensor:
        """Returns what the mixed operation is blended with: x in the shape of its output."""
        if self.spec.stride == 1:
            return x
        return averaged(x, self.spec.stride)

    def mixing(self, index: int | None, weighted: bool) -> list[nn.Module] | None:
        """Returns the modules that `mix` may run, as `MixedOp.running` does."""
        running = self.mixed.running(index, weighted)
        return None if running is None else [self, *running]

    def derive(self, index: int) -> EvolvableBlock:
        """Returns the block with candidate `index` alone. Its modules are this block's own, not copies."""
        name = self.spec.candidates[index]
        with torch.device("meta"):
            block = EvolvableBlock(dataclasses.replace(self.spec, candidates=(name,)))
        block.mixed.ops[name] = self.mixed.ops[name]
        block.gain, block.project = self.gain, self.project
        return block
