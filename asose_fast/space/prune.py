"""Blocks of a derived network that compute nothing are left out of what is written, exported and counted."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from asose_fast.space.block import BlockSpec
from asose_fast.space.build import ImageNetwork, Spec
from asose_fast.space.network import Network, NetworkSpec


def identity(block: BlockSpec) -> bool:
    """Says whether a derived block gives what it takes.

    `skip_connect` of stride 1 has s + gain * (x - s) with s = x. No projection may follow it.
    """
    return block.candidates == ("skip_connect",) and not block.reduces


def kept_blocks(spec: NetworkSpec) -> list[int]:
    """Returns the blocks of a derived network that compute something. Where none does it is the first, since a network
    has one block at least."""
    return [i for i, block in enumerate(spec.blocks) if not identity(block)] or [0]


def left_out(spec: Spec) -> list[int]:
    """Returns the blocks of a derived network that `pruned_spec` has no more, counted from 0."""
    if not isinstance(spec, NetworkSpec):
        return []
    kept = kept_blocks(spec)
    return [i for i in range(len(spec.blocks)) if i not in kept]


def pruned_spec(spec: Spec) -> Spec:
    """Returns the spec of a derived network without the blocks that compute nothing. Cells stay as they are."""
    if not isinstance(spec, NetworkSpec):
        return spec
    return dataclasses.replace(spec, blocks=tuple(spec.blocks[i] for i in kept_blocks(spec)))


def pruned(network: ImageNetwork) -> ImageNetwork:
    """Returns the network of `pruned_spec`, whose modules are those of `network`: its output is the same to the bit."""
    if not isinstance(network, Network) or len(kept := kept_blocks(network.spec)) == network.depth:
        return network
    blocks = network.evolvable_blocks()
    with torch.device("meta"):
        result = Network(dataclasses.replace(network.spec, blocks=tuple(blocks[i].spec for i in kept)))
    result.stem, result.head, result.blocks = network.stem, network.head, nn.ModuleList(blocks[i] for i in kept)
    return result.train(network.training)
