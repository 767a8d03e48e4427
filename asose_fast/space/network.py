"""The network has a stem, a chain of evolvable blocks, global pooling and a classifier (docs/concepts.md)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from asose_fast.bounds import MOST_CHANNELS, MOST_LAYERS, Bounds, check_value
from asose_fast.config import SpaceConfig
from asose_fast.space.block import BlockSpec, EvolvableBlock, halving
from asose_fast.space.candidates import build_candidate
from asose_fast.space.exact import is_told
from asose_fast.space.geometry import StemStride, after_stem, poolings, stem_stride
from asose_fast.space.global_average import GlobalAverage
from asose_fast.space.parts import run_on_kernels
from asose_fast.space.replay import Launches, Part, replayable, sequence
from asose_fast.space.supernet import Supernet

ModuleT = TypeVar("ModuleT", bound=nn.Module)

REDUCTIONS = (1, 3)
"""In the space chain these blocks halve the resolution and double the channels."""
STAGES = 3
"""The space stages has so many stages, or one for each block where there are fewer."""
MOBILE_STAGES = 4
"""The space mobile has so many stages, or one for each block where there are fewer."""


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """A spec is everything that a network is built from. `to_dict` and `from_dict` go through JSON."""

    in_channels: int
    classes: int
    stem_channels: int
    blocks: tuple[BlockSpec, ...]
    skeleton: Literal["chain", "stages"] = "chain"
    """The space that the network is of. In stages the stem's norm has scale and shift, as those of the projections
    have, and the head has no norm."""
    stem_pool: bool = False
    """2x2 max pooling ends the stem."""
    stem_stride: StemStride = 1
    """The convolution of the stem has this stride, and a kernel that sees every pixel."""

    @staticmethod
    def chain(config: SpaceConfig, in_channels: int, classes: int, image_size: int | None = None) -> NetworkSpec:
        """Returns the supernet of `config` for images of `in_channels` channels and `image_size` pixels a side. The
        stem has the stride of `config`, or `geometry.stem_stride` of the size. Raises ValueError for equal candidates.
        """
        _require_different(config.candidates)
        blocks, channels = [], config.channels
        for i in range(config.depth):
            grow = 2 if i in REDUCTIONS else 1
            blocks.append(BlockSpec(config.candidates, channels, channels * grow, stride=grow))
            channels *= grow
        stride = config.stem_stride or stem_stride(image_size)
        return NetworkSpec(in_channels, classes, config.channels, tuple(blocks), stem_stride=stride)

    @staticmethod
    def stages(config: SpaceConfig, in_channels: int, classes: int, image_size: int | None = None) -> NetworkSpec:
        """Returns the supernet of the space stages: a plain convolutional network is a path in it (docs/spaces.md).

        The last block of every stage but the last ends in a 3x3 convolution that doubles the channels. The stem and
        these stages end in a pooling, the first of them alone where images are small (`geometry.poolings`). An
        `image_size` that is left out is large. The stride of the stem, and errors, are as in `chain`.
        """
        _require_different(config.candidates)
        count = min(STAGES, config.depth)
        stride = config.stem_stride or stem_stride(image_size)
        pools = poolings(after_stem(stride, image_size), count)
        blocks, channels = [], config.channels
        for stage in range(count):
            block = BlockSpec(config.candidates, channels, channels)
            # Of blocks that cannot be divided evenly the later stages, which are cheaper, get one more.
            blocks += [block] * ((config.depth + stage) // count)
            if stage < count - 1:
                channels *= 2
                blocks[-1] = dataclasses.replace(block, out_channels=channels, kernel=3, pool=stage + 1 < pools)
        return NetworkSpec(in_channels, classes, config.channels, tuple(blocks), "stages", pools > 0, stride)

    @staticmethod
    def mobile(config: SpaceConfig, in_channels: int, classes: int, image_size: int | None = None) -> NetworkSpec:
        """Returns the supernet of the space mobile: a chain in `MOBILE_STAGES` stages (docs/spaces.md).

        The first block of every stage but the first doubles the channels and halves the resolution, the latter only
        where enough pixels are left (`geometry.poolings`). The stem, and errors, are as in `chain`.
        """
        _require_different(config.candidates)
        count = min(MOBILE_STAGES, config.depth)
        stride = config.stem_stride or stem_stride(image_size)
        halvings = poolings(after_stem(stride, image_size), count - 1)
        blocks, channels = [], config.channels
        for stage in range(count):
            width = channels if stage == 0 else 2 * channels
            first = BlockSpec(config.candidates, channels, width, stride=2 if 0 < stage <= halvings else 1)
            rest = BlockSpec(config.candidates, width, width)
            blocks += [first, *[rest] * ((config.depth + stage) // count - 1)]
            channels = width
        return NetworkSpec(in_channels, classes, config.channels, tuple(blocks), stem_stride=stride)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> NetworkSpec:
        """Inverts `to_dict`. Raises KeyError, TypeError or ValueError where something is missing or wrong."""
        blocks = tuple(BlockSpec(**{**b, "candidates": tuple(b["candidates"])}) for b in values["blocks"])
        spec = NetworkSpec(**{**values, "blocks": blocks})
        spec.check()
        return spec

    def check(self) -> None:
        """Raises ValueError for what is no network."""
        sizes = Bounds(least=1, most=MOST_CHANNELS)
        for name in ("in_channels", "classes", "stem_channels"):
            check_value(name, getattr(self, name), int, sizes)
        check_value("skeleton", self.skeleton, Literal["chain", "stages"])
        check_value("stem_pool", self.stem_pool, bool)
        check_value("stem_stride", self.stem_stride, StemStride)
        if not 1 <= len(self.blocks) <= MOST_LAYERS:
            raise ValueError(f"there must be 1 to {MOST_LAYERS} blocks, got {len(self.blocks)}")
        channels = self.stem_channels
        for i, block in enumerate(self.blocks):
            for name in ("in_channels", "out_channels"):
                check_value(f"{name} of block {i}", getattr(block, name), int, sizes)
            check_value(f"stride of block {i}", block.stride, int, Bounds(least=1, most=2))
            check_value(f"project of block {i}", block.project, bool)
            check_value(f"kernel of block {i}", block.kernel, Literal[1, 3])
            check_value(f"pool of block {i}", block.pool, bool)
            if (block.kernel == 3 and not block.project) or (block.pool and block.kernel != 3):
                raise ValueError(f"block {i} lacks what its 3x3 kernel or its pooling belongs to")
            if block.in_channels != channels:
                raise ValueError(f"block {i} takes {block.in_channels} channels, but is given {channels}")
            channels = block.out_channels

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and numbers."""
        blocks = [{**_told(b), "candidates": list(b.candidates)} for b in self.blocks]
        return {**_told(self), "blocks": blocks}

    @property
    def stem_kernel(self) -> int:
        """Returns the side of the stem's kernel: 3, or 7 at stride 4, whose windows else would leave pixels out."""
        return max(3, 2 * self.stem_stride - 1)

    @property
    def rows(self) -> int:
        """Returns the number of rows of alpha, one a block."""
        return len(self.blocks)

    @property
    def derived(self) -> bool:
        """Says whether no choice is left."""
        return all(len(block.candidates) == 1 for block in self.blocks)

    @property
    def operations(self) -> tuple[str, ...]:
        """Returns the candidate of every block of a derived network."""
        return tuple(block.candidates[0] for block in self.blocks)

    def derive(self, path: Sequence[int]) -> NetworkSpec:
        """Returns the derived network with candidate path[i] in block i."""
        blocks = zip(self.blocks, path, strict=True)
        chosen = tuple(dataclasses.replace(block, candidates=(block.candidates[k],)) for block, k in blocks)
        return dataclasses.replace(self, blocks=chosen)

    def scaled(self, channels: int | None) -> NetworkSpec:
        """Returns the spec with `channels` channels in the stem and the other widths in proportion, at least 1. With
        None it is as it is."""
        if channels is None or channels == self.stem_channels:
            return self
        return self._of_widths([max(1, round(width * channels / self.stem_channels)) for width in self.widths])

    @property
    def widths(self) -> tuple[int, ...]:
        """Returns the channels of every stage. A stage begins at the stem or a projection. Its blocks have one number
        of channels, and so has the mixed operation of the next projecting block."""
        return self.stem_channels, *(block.out_channels for block in self.blocks if block.project)

    @property
    def proportions(self) -> tuple[int, ...]:
        """Returns the widths of the stages at the start of a search, as multiples of the stem's."""
        projections = len(self.widths) - 1
        # Stages once ended in a convolution that doubled nothing, and runs of that time go on.
        doublings = projections - (self.skeleton == "stages" and self.blocks[-1].project)
        return tuple(2 ** min(stage, doublings) for stage in range(projections + 1))

    def deeper(self, position: int) -> NetworkSpec:
        """Returns the spec with one block more, before block `position` or at the end."""
        model = self.blocks[position - 1] if position else self.blocks[0]
        channels = model.out_channels if position else model.in_channels
        block = BlockSpec(model.candidates, channels, channels)
        return dataclasses.replace(self, blocks=(*self.blocks[:position], block, *self.blocks[position:]))

    def wider(self, stage: int, channels: int) -> NetworkSpec:
        """Returns the spec with `channels` channels in a stage. Raises ValueError for no such stage, or channels not
        above."""
        widths = list(self.widths)
        if not 0 <= stage < len(widths):
            raise ValueError(f"stage must be from 0 to {len(widths) - 1}, got {stage}")
        if channels <= widths[stage]:
            raise ValueError(f"stage {stage} has {widths[stage]} channels; wider needs more, got {channels}")
        widths[stage] = channels
        return self._of_widths(widths)

    def _of_widths(self, widths: Sequence[int]) -> NetworkSpec:
        blocks, here = [], 0
        for block in self.blocks:
            before, here = here, here + block.project
            blocks.append(dataclasses.replace(block, in_channels=widths[before], out_channels=widths[here]))
        return dataclasses.replace(self, stem_channels=widths[0], blocks=tuple(blocks))

    def with_candidate(self, name: str) -> NetworkSpec:
        """Returns the spec with one candidate more in every block, the last. Raises ValueError where a block has it
        already."""
        if any(name in block.candidates for block in self.blocks):
            raise ValueError(f"{name} cannot be added to the candidates: it is one of them")
        blocks = [dataclasses.replace(block, candidates=(*block.candidates, name)) for block in self.blocks]
        return dataclasses.replace(self, blocks=tuple(blocks))


def _require_different(candidates: Sequence[str]) -> None:
    if len(set(candidates)) != len(candidates):
        raise ValueError(f"candidates must differ from each other, got {', '.join(candidates)}")


def _stem_convolution(spec: NetworkSpec) -> nn.Module:
    """Makes the sides ceil(side / stride)."""
    kernel = spec.stem_kernel
    return nn.Conv2d(spec.in_channels, spec.stem_channels, kernel, spec.stem_stride, padding=kernel // 2, bias=False)


_OPTIONAL = {"kernel": 1, "pool": False, "skeleton": "chain", "stem_pool": False, "stem_stride": 1}
"""These fields are written only where they have other values: files of chains say what they always said."""


def _told(spec: NetworkSpec | BlockSpec) -> dict[str, Any]:
    values = dataclasses.asdict(spec).items()
    return {name: value for name, value in values if name not in _OPTIONAL or value != _OPTIONAL[name]}


def _run(block: nn.Module, index: int | None, x: Tensor, weights: Tensor | None = None) -> Tensor:
    y: Tensor = block(x, weights, index, None)
    return y


def _mix(block: EvolvableBlock, index: int | None, x: Tensor, weights: Tensor | None = None) -> Tensor:
    return block.mix(x, weights, index)


_INDICES = (int, NoneType)


class Network(Supernet):
    """The network is a stem and blocks, then BN, ReLU, global average pooling and a linear classifier. In the space
    stages the stem may pool, and the head has no BN."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self._spec, self._launches = spec, Launches()
        stages = spec.skeleton == "stages"
        self.stem = nn.Sequential(
            _stem_convolution(spec),
            nn.BatchNorm2d(spec.stem_channels, affine=stages),
            *([halving()] if spec.stem_pool else []),
        )
        self.blocks = nn.ModuleList(EvolvableBlock(block) for block in spec.blocks)
        features = spec.blocks[-1].out_channels
        self.head = nn.Sequential(
            *([] if stages else [nn.BatchNorm2d(features)]),
            nn.ReLU(),
            GlobalAverage(),
            nn.Flatten(),
            nn.Linear(features, spec.classes),
        )

    @property
    def spec(self) -> NetworkSpec:
        """Returns the spec of the network as it is now, grown or derived."""
        blocks = tuple(block.spec for block in self.evolvable_blocks())
        return dataclasses.replace(self._spec, blocks=blocks)

    @spec.setter
    def spec(self, spec: NetworkSpec) -> None:
        """Takes note of what the modules, which someone has changed, are now."""
        self._spec = spec
        for block, block_spec in zip(self.evolvable_blocks(), spec.blocks, strict=True):
            block.spec = block_spec

    @property
    def operations(self) -> tuple[str, ...]:
        """Returns the operations of a derived network, block by block."""
        return self.spec.operations

    @property
    def depth(self) -> int:
        """Returns the number of blocks."""
        return len(self.blocks)

    @property
    def middle(self) -> tuple[nn.Module, int]:
        """Returns the block two thirds of the way through, and the channels of its output."""
        block = self.evolvable_blocks()[max(0, 2 * len(self.blocks) // 3 - 1)]
        return block, block.spec.out_channels

    def set_drop_path(self, probability: float) -> None:
        """Sets `drop_path` of every block."""
        for block in self.evolvable_blocks():
            block.drop_path = probability

    def choose(self, scores: Tensor) -> list[int]:
        """Returns the path of the best architecture, the candidate of largest score in every block. `scores` is (L,
        K)."""
        path: list[int] = scores.argmax(1).tolist()
        return path

    def evolvable_blocks(self) -> list[EvolvableBlock]:
        """Returns the blocks in order, typed."""
        return [block for block in self.blocks if isinstance(block, EvolvableBlock)]

    def forward(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        path: Sequence[int] | None = None,
        kept: Sequence[tuple[int, ...]] | None = None,
    ) -> Tensor:
        """Returns class scores (N, classes) of images (N, in_channels, H, W).

        `weights` (L, K), `path` (L indices) and `kept` (L tuples of indices) choose the plan of every block as in
        MixedOp; a derived network needs none of them.
        """
        path = path.tolist() if isinstance(path, Tensor) else path
        if kept is not None or not replayable(x):
            return self._by_modules(x, weights, path, kept)
        return self._launches.run(self._parts(weights, path), x)

    def _by_modules(
        self,
        x: Tensor,
        weights: Tensor | None,
        path: Sequence[int] | None,
        kept: Sequence[tuple[int, ...]] | None,
    ) -> Tensor:
        x = run_on_kernels(self.stem, x)
        rows = None if weights is None else weights.unbind()
        for i, block in enumerate(self.blocks):
            x = block(x, *(None if table is None else table[i] for table in (rows, path, kept)))
        return run_on_kernels(self.head, x)

    def _parts(self, weights: Tensor | None, path: Sequence[int] | None) -> Iterator[Part]:
        """Yields all parts, with one candidate a block, or with all of them where there are weights."""
        yield sequence(self.stem)
        rows = None if weights is None else weights.unbind()
        for i, block in enumerate(self.blocks):
            row, index = None if rows is None else rows[i], None if path is None else path[i]
            if type(block) is not EvolvableBlock or not is_told(block) or block.drops or type(index) not in _INDICES:
                yield Part(functools.partial(_run, block, index), block, None, lambda: None, row)
                continue
            modules = functools.partial(block.mixing, index, row is not None)
            yield Part(functools.partial(_mix, block, index), block, index, modules, row, block.gain)
            if block.project is not None:
                yield sequence(block.project)
        yield sequence(self.head)

    def derive(self, path: Sequence[int]) -> Network:
        """Returns the network with one candidate a block. Its modules, and so its parameters, are this network's
        own."""
        blocks = [block.derive(k) for block, k in zip(self.evolvable_blocks(), path, strict=True)]
        with torch.device("meta"):
            derived = Network(dataclasses.replace(self.spec, blocks=tuple(block.spec for block in blocks)))
        derived.stem, derived.head, derived.blocks = self.stem, self.head, nn.ModuleList(blocks)
        derived.train(self.training)
        return derived

    def deepen(self, position: int) -> EvolvableBlock:
        """Inserts a block before block `position` (or at the end) that starts as the identity, and returns it.

        The function of the network does not change: the block's gain is 0 (docs/concepts.md).
        """
        spec = self.spec.deeper(position)
        block = EvolvableBlock(spec.blocks[position], gain=0.0)
        self.blocks.insert(position, self._like_the_rest(block))
        self.spec = spec
        return block

    def add_candidate(self, name: str) -> list[nn.Module]:
        """Gives every block a further candidate, the last, and returns these modules.

        `y = g * (sum_{k<=K} w_k o_k(x) + w_{K+1} o_{K+1}(x)) + (1 - g) * s` is what it was where w_{K+1} = 0 and no
        path leads through candidate K+1; the architecture weights are the selector's business
        (`Selector.add_candidate`). Raises ValueError for an unknown name, or one that a block has already.
        """
        spec = self.spec.with_candidate(name)
        added = [self._like_the_rest(build_candidate(name, b.in_channels, b.stride)) for b in spec.blocks]
        for block, op in zip(self.evolvable_blocks(), added, strict=True):
            block.mixed.ops[name] = op
        self.spec = spec
        return added

    def _like_the_rest(self, module: ModuleT) -> ModuleT:
        """Returns a new module with the device, dtype, memory format and mode of the network."""
        like = next(self.parameters())
        module.to(like.device, like.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return module.train(self.training)
