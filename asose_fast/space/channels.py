"""The tensors of a module carry channels. One table, `RULES`, says how, by the exact type of the module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.space.candidates import FactorizedReduce, SqueezeExcite, Zero
from asose_fast.space.convolution import Conv2d
from asose_fast.space.global_average import GlobalAverage


class CannotWidenError(ValueError):
    """A module cannot be widened, and nothing was changed. The message names the module and says why."""


@dataclasses.dataclass(frozen=True)
class ChannelMap:
    """A map says which old channel each new one repeats."""

    source: Tensor
    """The source of each new channel is an old one, (new channels,) int64, on the CPU. Every old channel occurs."""
    old: int
    """There were so many channels."""

    @staticmethod
    def halves(old: int, new: int) -> ChannelMap:
        """Repeats channels in turn, those of the first half (old // 2 channels) in the first half of the new ones.

        So a concatenation of two halves, which FactorizedReduce is, still is one.
        """
        if old == 1:
            return ChannelMap(torch.zeros(new, dtype=torch.int64), old)
        first, rest = torch.arange(new // 2) % (old // 2), torch.arange(new - new // 2) % (old - old // 2)
        return ChannelMap(torch.cat([first, old // 2 + rest]), old)

    @property
    def new(self) -> int:
        """Returns the number of new channels."""
        return len(self.source)

    @property
    def replicas(self) -> Tensor:
        """Returns, for each new channel, how many repeat its source, (new,)."""
        return torch.bincount(self.source)[self.source]

    def times(self, factor: int) -> ChannelMap:
        """Returns the map of `factor` as many channels, those of each copy repeated as these are."""
        copies = [self.source + self.old * copy for copy in range(factor)]
        return ChannelMap(torch.cat(copies), self.old * factor)

    def part(self, old: slice, new: slice) -> ChannelMap:
        """Returns the map from some old channels to some new ones. Raises CannotWidenError where the new ones repeat
        others."""
        start, stop, _ = old.indices(self.old)
        source = self.source[new] - start
        if not ((source >= 0) & (source < stop - start)).all():
            raise CannotWidenError(
                "a FactorizedReduce of one channel has an empty half, which cannot be widened: use more channels, or "
                "no skip_connect in blocks of stride 2"
            )
        return ChannelMap(source, stop - start)


Channels = ChannelMap | None
"""This says what becomes of the channels of a tensor's dimension. With None they stay."""


class Carrier(NamedTuple):
    """A carrier is a module that carries channels."""

    module: nn.Module
    tensors: dict[str, tuple[Channels, Channels]]
    """These are parameters and buffers by name, with the channels of dimension 0, and of dimension 1, which is summed
    over."""
    sizes: dict[str, Channels]
    """These attributes count channels."""


Rule = Callable[[Any, Channels, Channels], tuple[list[Carrier], Channels]]
"""A rule takes a module, the channels that enter, and the channels wanted in the end. It gives the carriers in the
module, and the channels that leave it."""


def carriers(module: nn.Module, entering: Channels, wanted: Channels) -> tuple[list[Carrier], Channels]:
    """Returns what the rule of a module says. Raises CannotWidenError for a module without one."""
    if entering is None and wanted is None:
        return [], None
    rule = RULES.get(type(module))
    if rule is None:
        raise CannotWidenError(
            f"{type(module).__name__} has no rule for how its tensors carry channels: "
            "add one to asose_fast.space.channels.RULES"
        )
    return rule(module, entering, wanted)


def _sequence(modules: nn.Sequential, entering: Channels, wanted: Channels) -> tuple[list[Carrier], Channels]:
    found = []
    for module in modules:
        inside, entering = carriers(module, entering, wanted)
        found += inside
    return found, entering


def _unchanged(module: nn.Module, entering: Channels, wanted: Channels) -> tuple[list[Carrier], Channels]:
    return [], entering


def _convolution(conv: nn.Conv2d, entering: Channels, wanted: Channels) -> tuple[list[Carrier], Channels]:
    """Handles convolutions. Dense ones mix channels, and depthwise ones keep each apart."""
    if conv.groups == 1:
        if wanted is not None and conv.out_channels > wanted.old and conv.out_channels % wanted.old == 0:
            wanted = wanted.times(conv.out_channels // wanted.old)  # of an inverted bottleneck
        tensors = {"weight": (wanted, entering), "bias": (wanted, None)}
        return [Carrier(conv, tensors, {"in_channels": entering, "out_channels": wanted})], wanted
    if not conv.groups == conv.in_channels == conv.out_channels:
        raise CannotWidenError(f"a convolution of {conv.groups} groups is neither dense nor depthwise")
    sizes = {"in_channels": entering, "out_channels": entering, "groups": entering}
    return [Carrier(conv, {"weight": (entering, None), "bias": (entering, None)}, sizes)], entering


def _norm(norm: nn.BatchNorm2d, entering: Channels, wanted: Channels) -> tuple[list[Carrier], Channels]:
    names = ("weight", "bias", "running_mean", "running_var")
    return [Carrier(norm, dict.fromkeys(names, (entering, None)), {"num_features": entering})], entering


def _linear(linear: nn.Linear, entering: Channels, wanted: Channels) -> tuple[list[Carrier], Channels]:
    tensors = {"weight": (wanted, entering), "bias": (wanted, None)}
    return [Carrier(linear, tensors, {"in_features": entering, "out_features": wanted})], wanted


def _factorized_reduce(op: FactorizedReduce, entering: Channels, wanted: Channels) -> tuple[list[Carrier], Channels]:
    even = odd = wanted
    if wanted is not None:
        old, new = wanted.old // 2, wanted.new // 2
        even = wanted.part(slice(0, old), slice(0, new))
        odd = wanted.part(slice(old, None), slice(new, None))
    parts = [carriers(op.even, entering, even), carriers(op.odd, entering, odd), carriers(op.norm, wanted, wanted)]
    return [carrier for found, _ in parts for carrier in found], wanted


def _squeeze_excite(op: SqueezeExcite, entering: Channels, wanted: Channels) -> tuple[list[Carrier], Channels]:
    squeezed = None
    if entering is not None:
        squeezed = ChannelMap.halves(op.squeezed(entering.old), op.squeezed(entering.new))
    return _convolution(op.reduce, entering, squeezed)[0] + _convolution(op.expand, squeezed, entering)[0], entering


RULES: dict[type[nn.Module], Rule] = {
    nn.Sequential: _sequence,
    nn.Conv2d: _convolution,
    Conv2d: _convolution,
    nn.BatchNorm2d: _norm,
    nn.Linear: _linear,
    FactorizedReduce: _factorized_reduce,
    SqueezeExcite: _squeeze_excite,
    Zero: _unchanged,
    nn.Identity: _unchanged,
    nn.ReLU: _unchanged,
    nn.AvgPool2d: _unchanged,
    nn.MaxPool2d: _unchanged,
    nn.AdaptiveAvgPool2d: _unchanged,
    GlobalAverage: _unchanged,
    nn.Flatten: _unchanged,
}
"""Modules are told by their exact type. A subclass, or a module with parametrizations, may use its tensors in another
way."""
