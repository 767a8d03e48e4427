"""How many blocks of a derived chain have no weights, and what is said where they are too many (docs/stability.md)."""

from __future__ import annotations

from asose_fast.config import HealthConfig
from asose_fast.engine.health.collapse import WITHOUT_WEIGHTS
from asose_fast.space.block import BlockSpec
from asose_fast.space.network import NetworkSpec


def weightless(block: BlockSpec) -> bool:
    """Whether a derived block has no weights but its gain: no projection, and an operation without any. At stride 2
    `skip_connect` has convolutions."""
    (name,) = block.candidates
    return name in WITHOUT_WEIGHTS and not block.project and (name != "skip_connect" or block.stride == 1)


def weightless_share(spec: object) -> float | None:
    """The share of the blocks of a derived chain that have no weights, from 0 to 1; of any other space None.

    In stages the plain network is what is left without such blocks, and of cells nothing is known.
    """
    if not isinstance(spec, NetworkSpec) or spec.skeleton != "chain":
        return None
    return sum(map(weightless, spec.blocks)) / len(spec.blocks)


def advice(config: HealthConfig, spec: object) -> list[str]:
    """What is said of a derived network in the end, in sentences: nothing where at most `weightless_most` of its blocks
    have no weights, or where that is not judged."""
    share = weightless_share(spec)
    if share is None or share <= config.weightless_most:
        return []
    assert isinstance(spec, NetworkSpec)
    idle = [block for block in spec.blocks if weightless(block)]
    names = ", ".join(dict.fromkeys(block.candidates[0] for block in idle))
    return [
        f"{len(idle)} of {len(spec.blocks)} blocks that the search chose have no weights ({names}): the network may be "
        "poor, as two such were beside a plain convolutional network (docs/stability.md). Compare it with one, and try "
        "--space stages, whose networks have 3x3 convolutions whatever is chosen, or --candidates without these"
    ]
