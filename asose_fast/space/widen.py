"""Net2Wider: a stage of a network gets more channels and the network's function stays (DESIGN section 6).

How a module's tensors carry channels stands in one table, `RULES`, by the exact type of the module.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.space.candidates import FactorizedReduce, Zero
from asose_fast.space.network import Network


class CannotWidenError(ValueError):
    """A module cannot be widened, and nothing was changed; the message names the module and says why."""


@dataclasses.dataclass(frozen=True)
class ChannelMap:
    """Which old channel each new one repeats."""

    source: Tensor
    """(new channels,) int64, on the CPU; every old channel occurs."""
    old: int
    """Old channels."""

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
        """New channels."""
        return len(self.source)

    @property
    def replicas(self) -> Tensor:
        """How many new channels repeat the source of each, (new,)."""
        return torch.bincount(self.source)[self.source]

    def part(self, old: slice, new: slice) -> ChannelMap:
        """The map from some old channels to some new ones. Raises CannotWidenError where the new ones
        repeat others."""
        start, stop, _ = old.indices(self.old)
        source = self.source[new] - start
        if not ((source >= 0) & (source < stop - start)).all():
            raise CannotWidenError(
                "a FactorizedReduce of one channel has an empty half, which cannot be widened: use more channels, or "
                "no skip_connect in blocks of stride 2"
            )
        return ChannelMap(source, stop - start)


Channels = ChannelMap | None
"""What becomes of the channels of a tensor's dimension; None: they stay."""


class Carrier(NamedTuple):
    """A module that carries channels."""

    module: nn.Module
    tensors: dict[str, tuple[Channels, Channels]]
    """Parameters and buffers by name: channels of dimension 0, and of dimension 1, which is summed over."""
    sizes: dict[str, Channels]
    """Attributes that count channels."""


Rule = Callable[[Any, Channels, Channels], tuple[list[Carrier], Channels]]
"""Of (module, channels that enter, channels wanted in the end): the carriers in it, and the channels that leave it."""


def carriers(module: nn.Module, entering: Channels, wanted: Channels) -> tuple[list[Carrier], Channels]:
    """What the rule of a module says. Raises CannotWidenError for a module without one."""
    if entering is None and wanted is None:
        return [], None
    rule = RULES.get(type(module))
    if rule is None:
        raise CannotWidenError(
            f"{type(module).__name__} has no rule for how its tensors carry channels: "
            "add one to asose_fast.space.widen.RULES"
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
    """Dense ones mix channels; depthwise ones keep each apart."""
    if conv.groups == 1:
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


RULES: dict[type[nn.Module], Rule] = {
    nn.Sequential: _sequence,
    nn.Conv2d: _convolution,
    nn.BatchNorm2d: _norm,
    nn.Linear: _linear,
    FactorizedReduce: _factorized_reduce,
    Zero: _unchanged,
    nn.Identity: _unchanged,
    nn.ReLU: _unchanged,
    nn.AvgPool2d: _unchanged,
    nn.MaxPool2d: _unchanged,
    nn.AdaptiveAvgPool2d: _unchanged,
    nn.Flatten: _unchanged,
}
"""Told by exact type: a subclass, or a module with parametrizations, may use its tensors in another way."""


class Replaced(NamedTuple):
    """A parameter that another has taken the place of."""

    old: nn.Parameter
    new: nn.Parameter
    as_gradient: Callable[[Tensor], Tensor]
    """Takes a tensor like the old parameter to one like the new, as gradients transform (`widen`)."""


def widen(network: Network, stage: int, channels: int, *, noise: float = 0.0) -> list[Replaced]:
    """Gives a stage (`NetworkSpec.widths`) more channels; the network's function stays (Chen et al., Net2Net, 2016).

    With m(j) the old channel that new channel j repeats, r_j the number of new channels that repeat it, W[o, i] a dense
    convolution or linear layer of output o and input i, and b a tensor with one entry a channel (depthwise
    convolutions, batch norms, statistics):

        W'[o, i] = W[m(o), m(i)] s_oi,  sum over the replicas i of one channel of s_oi = 1;   b'[j] = b[m(j)]

    where s_oi = 1 / r_i, or with noise e^(noise n_oi) over its sum, n standard normal. Either way the function is
    exactly what it was, batch statistics included. Without noise, replicas stay equal however long they train, as
    their gradients are equal; with it, they part.

    Gradients of the widened network, without noise, are those of the old one, divided over the replicas of outputs:

        dL/dW'[o, i] = dL/dW[m(o), m(i)] / r_o,   dL/db'[j] = dL/db[m(j)] / r_j

    and that is how momentum is carried. So the next step of SGD without weight decay is the one of the network as it
    was, transformed in the same way. It is the same step in function where this and the transformation of the tensor
    agree: r_o = r_i (dense convolutions inside a stage, or between two stages, of a whole factor), and whatever carries
    none of the channels. Elsewhere there is none: a replica of the stem or of a depthwise convolution gets 1 / r of the
    gradient that it would need, the classifier r times.

    Returns the parameters that were replaced. Raises ValueError where there is no such stage or `channels` is not above
    what it has, and CannotWidenError for a module without a rule.
    """
    before = network.spec
    spec = before.wider(stage, channels)
    maps: list[Channels] = [None] * len(before.widths)
    maps[stage] = ChannelMap.halves(before.widths[stage], channels)
    found, here = _carriers_of(network, network.stem, None, maps[0]), 0
    for block in network.evolvable_blocks():
        for op in block.mixed.ops.values():
            found += _carriers_of(network, op, maps[here], maps[here])
        if block.project is not None:
            here += 1
            found += _carriers_of(network, block.project, maps[here - 1], maps[here])
    found += _carriers_of(network, network.head, maps[here], None)
    replaced = [change for carrier in found for change in _apply(carrier, noise)]
    network.spec = spec
    return replaced


def _carriers_of(network: nn.Module, module: nn.Module, entering: Channels, wanted: Channels) -> list[Carrier]:
    try:
        return carriers(module, entering, wanted)[0]
    except CannotWidenError as error:
        name = next(name for name, part in network.named_modules() if part is module)
        raise CannotWidenError(f"cannot widen {name}: {error}") from error


def _apply(carrier: Carrier, noise: float) -> list[Replaced]:
    module, replaced = carrier.module, []
    for name, (out, summed) in carrier.tensors.items():
        old = getattr(module, name)
        if old is None or (out is None and summed is None):
            continue
        values = _like(old, _repeat(old.detach(), out, summed) * _shares(old, out, summed, noise))
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(values, requires_grad=old.requires_grad)
            setattr(module, name, new)
            replaced.append(Replaced(old, new, _Gradient(out, summed)))
        else:
            setattr(module, name, values)
    for name, channels in carrier.sizes.items():
        if channels is not None:
            setattr(module, name, channels.new)
    return replaced


@dataclasses.dataclass(frozen=True)
class _Gradient:
    """The transformation of gradients: divided by the replicas of outputs."""

    out: Channels
    summed: Channels

    def __call__(self, gradient: Tensor) -> Tensor:
        wide = _repeat(gradient, self.out, self.summed)
        if self.out is not None:
            wide = wide / _along(self.out.replicas.to(gradient), 0, gradient.dim())
        return _like(gradient, wide)


def _repeat(tensor: Tensor, out: Channels, summed: Channels) -> Tensor:
    for dimension, channels in enumerate((out, summed)):
        if channels is not None:
            tensor = tensor.index_select(dimension, channels.source.to(tensor.device))
    return tensor


def _shares(like: Tensor, out: Channels, summed: Channels, noise: float) -> Tensor:
    """s, in a shape that broadcasts over the widened tensor."""
    if summed is None:
        return like.new_ones(())
    if not noise:
        return _along(1 / summed.replicas.to(like), 1, like.dim())
    outputs = like.shape[0] if out is None else out.new
    parts = torch.exp(noise * torch.randn(outputs, summed.new, dtype=torch.float64))
    sums = parts.new_zeros(outputs, summed.old).index_add(1, summed.source, parts)
    shares = parts / sums[:, summed.source]
    return shares.to(like).reshape(outputs, summed.new, *[1] * (like.dim() - 2))


def _along(values: Tensor, dimension: int, dimensions: int) -> Tensor:
    """Values of one dimension, in a shape that broadcasts over tensors of several."""
    return values.reshape([-1 if d == dimension else 1 for d in range(dimensions)])


def _like(old: Tensor, values: Tensor) -> Tensor:
    """In the memory format of `old`."""
    channels_last = old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last)
    return values.contiguous().to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
