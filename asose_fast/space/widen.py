"""Net2Wider gives a stage of a network more channels, and the network's function stays (docs/concepts.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.space.channels import CannotWidenError, Carrier, ChannelMap, Channels, carriers
from asose_fast.space.network import Network


class Replaced(NamedTuple):
    """Another parameter has taken the place of this one."""

    old: nn.Parameter
    new: nn.Parameter
    as_gradient: Callable[[Tensor], Tensor]
    """This takes a tensor like the old parameter to one like the new, as gradients transform (`widen`)."""


def widen(network: Network, stage: int, channels: int, *, noise: float = 0.0) -> list[Replaced]:
    """Gives a stage (`NetworkSpec.widths`) more channels. The network's function stays (Chen et al., Net2Net, 2016).

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
    """Gradients are transformed so: they are divided by the replicas of outputs."""

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
    """Returns s, in a shape that broadcasts over the widened tensor."""
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
    """Returns values of one dimension, in a shape that broadcasts over tensors of several."""
    return values.reshape([-1 if d == dimension else 1 for d in range(dimensions)])


def _like(old: Tensor, values: Tensor) -> Tensor:
    """Returns the values in the memory format of `old`."""
    channels_last = old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last)
    return values.contiguous().to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
