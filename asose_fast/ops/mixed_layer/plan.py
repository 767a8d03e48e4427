"""What a mixed layer computes, apart from its tensors, and the order in which its node is given them and keeps them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from asose_fast.ops.dense import Dense
from asose_fast.ops.depthwise_plan import DepthwisePlan

T = TypeVar("T")


class Stage(NamedTuple):
    """The modules of a stage, which begins with a ReLU: depthwise convolution, pointwise convolution, BN."""

    depthwise: nn.Conv2d
    pointwise: nn.Conv2d
    norm: nn.BatchNorm2d


class Parts(NamedTuple):
    """The node's inputs after x, or what belongs to them, by their meaning."""

    affine: list[tuple[Any, ...]]
    """gamma and beta: of the norms between two stages, by depth, then of the last norms."""
    depthwise: list[list[Any]]
    """The weights by depth, then by chain; those of `pointwise` likewise."""
    pointwise: list[list[Any]]
    dense: list[list[Any]]
    """The weights of dense branches, by branch."""
    zs: list[Any]
    plain: list[Any]

    def flat(self) -> list[Any]:
        """All of them in a row."""
        rows = itertools.chain(self.affine, self.depthwise, self.pointwise, self.dense)
        return [*itertools.chain(*rows), *self.zs, *self.plain]


class LayerPlan(NamedTuple):
    """What the node computes, apart from its tensors."""

    stride: int
    plans: list[DepthwisePlan]
    """The plans of the stages, by depth; branch k belongs to chain k."""
    norms: list[list[nn.BatchNorm2d]]
    """The norms that follow the stages, by depth."""
    last_norms: list[nn.BatchNorm2d]
    """The norms that the sum takes: those of chains, of pools, of dense branches and of others."""
    lengths: list[int]
    """How many stages each chain has."""
    pools: int
    dense: list[list[Dense]]
    """The convolutions of dense branches, by branch, each on what the one before gives, the first on relu(x)."""
    others: int
    plain_is_x: list[bool]
    """Which plain terms are x itself: their gradient is part of that of x."""
    tracked: list[bool]
    """Which chains, pools and dense branches hand gradients on."""
    recompute: bool
    checked: bool
    """Whether the modules have been looked at, so that forward kernels may be called without another look."""

    @property
    def chains(self) -> int:
        """The number of chains."""
        return len(self.lengths)

    def maxima(self, places: Tensor | None) -> tuple[Tensor | None, int]:
        """How the sum is told of a max pooling that gave no tensor, but the places of its maxima in x, which are
        known with stride 1; and the number of that term."""
        return places if self.stride == 1 else None, self.chains + 1

    def out_shape(self, x: Tensor) -> torch.Size:
        """The shape of what chains and pools make of x."""
        return x.shape[:2] + torch.Size([(side - 1) // self.stride + 1 for side in x.shape[2:]])

    @property
    def depth(self) -> int:
        """The number of stages of the longest chain."""
        return len(self.plans)

    def inputs(self, depth: int) -> int:
        """The number of chains that go on to a depth."""
        return len(self.plans[depth].kernels) if depth < self.depth else 0

    def ends(self, stages: Sequence[T]) -> Iterator[tuple[T, int, int]]:
        """What holds the last rows of chains, and from where to where, in the order of the chains."""
        low = 0
        for stage, plan in reversed(list(zip(stages, self.plans, strict=True))):
            high = len(plan.kernels)
            if low < high:
                yield stage, low, high
            low = high

    def last(self, outputs: list[list[T]]) -> list[T]:
        """The outputs of the chains, among those of all stages."""
        return [outputs[n - 1][k] for k, n in enumerate(self.lengths)]

    def split(self, values: Iterable[Any]) -> Parts:
        """Sorts what follows x among the node's inputs, or what belongs to it."""
        rest = iter(values)

        def take(count: int) -> list[Any]:
            return list(itertools.islice(rest, count))

        pairs = [tuple(take(2)) for _ in range(max(self.depth, 1))]
        counts = [len(plan.kernels) for plan in self.plans]
        depthwise, pointwise = ([take(n) for n in counts] for _ in range(2))
        dense = [take(len(convs)) for convs in self.dense]
        return Parts(pairs, depthwise, pointwise, dense, take(self.others), list(rest))


class StageTables(NamedTuple):
    """What the stages of one depth are run with, and what the norms between them and the next normalise by."""

    params: Tensor
    pointwise: Tensor
    mean: Tensor | None
    """None at the last depth, and so is rstd."""
    rstd: Tensor | None


class Saved(NamedTuple):
    """What the node keeps for its backward pass."""

    x: Tensor
    weights: Tensor
    """The weights of all terms."""
    mean: Tensor
    rstd: Tensor
    """What the last norms normalised by."""
    places: Tensor | None
    """Where the maxima of the pools are, if that was kept."""
    affine: list[tuple[Any, ...]]
    """gamma and beta, as in `Parts`; beta of the last norms alone."""
    stages: list[StageTables]
    dense: list[list[Any]]
    """What the convolutions of dense branches read, by branch, where backward reads it too."""
    zs: list[Tensor]
    """Those of dense branches, and then those that were given."""
    plain: list[Tensor]
    """The plain terms where their weights' gradient is wanted, else nothing."""
    outputs: list[list[Any]]
    """The outputs of the stages, by depth; these and `pooled` are empty where backward computes them again."""
    pooled: list[Tensor]
    ys: list[list[Any]]
    """The depthwise outputs by depth: of a depth all that its backward pass reads, or nothing."""
    parameters: Parts
    """The node's own inputs: the gradients are in their shapes, and second derivatives need them. No zs and plain."""

    def tensors(self) -> list[Tensor | None]:
        """All of them in a row."""
        return [
            self.x, self.weights, self.mean, self.rstd, self.places,
            *(gamma for gamma, _ in self.affine), self.affine[-1][1],
            *itertools.chain(*self.stages), *itertools.chain(*self.dense), *self.zs, *self.plain,
            *itertools.chain(*self.outputs), *self.pooled, *itertools.chain(*self.ys), *self.parameters.flat(),
        ]  # fmt: skip

    @staticmethod
    def of(layer: LayerPlan, with_plain: bool, with_ys: Sequence[int], tensors: Sequence[Any]) -> Saved:
        """What such a row holds: the plain terms only `with_plain`, and `with_ys` depthwise outputs by depth."""
        rest = iter(tensors)

        def take(count: int) -> list[Any]:
            return list(itertools.islice(rest, count))

        x, weights, mean, rstd, places = take(5)
        *inner, gamma, beta = take(max(layer.depth, 1) + 1)
        stages = [StageTables(*take(4)) for _ in layer.plans]
        dense = [take(len(convs)) for convs in layer.dense]
        zs, plain = take(len(dense) + layer.others), take(len(layer.plain_is_x) if with_plain else 0)
        kept = 0 if layer.recompute else layer.pools
        outputs = [] if layer.recompute else [take(len(plan.kernels)) for plan in layer.plans]
        affine = [*((g, None) for g in inner), (gamma, beta)]
        pooled = take(kept)
        ys = [take(count) for count in with_ys]
        return Saved(
            x, weights, mean, rstd, places, affine, stages, dense, zs, plain, outputs, pooled, ys, layer.split(rest)
        )  # fmt: skip
