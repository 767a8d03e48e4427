"""What is measured beside another implementation: theirs in two layouts, and ours."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import Algorithm, Peer, Size


class Variant(NamedTuple):
    algorithm: Algorithm
    layout: str | None
    """Of theirs; None: ours."""


class Given(NamedTuple):
    """What all variants have in common."""

    peer: type[Peer]
    path: Path
    """A checkout of it."""
    size: Size
    algorithm: Algorithm


def variants_of(algorithm: Algorithm) -> dict[str, Variant]:
    """What is measured, by name."""
    theirs = {
        "theirs, NCHW": Variant(algorithm, "nchw"),
        "theirs, channels_last": Variant(algorithm, "nhwc"),
    }
    another = {"ours, sampled": Variant("sampled", None)} if algorithm == "darts" else {}
    return {**theirs, "ours": Variant(algorithm, None), **another}


def make(peer: type[Peer], path: Path, size: Size, algorithm: Algorithm, name: str) -> Peer | Ours:
    """A variant, from the seed that all have."""
    variant = variants_of(algorithm)[name]
    theirs = peer(path, variant.layout or "nhwc", size, algorithm)
    return theirs if variant.layout else Ours(theirs, size, variant.algorithm)


def seeded(step: Callable[[], None]) -> Callable[[], None]:
    """A step that samples the same candidates as every other variant's step of the same number."""
    count = itertools.count()

    def run() -> None:
        torch.manual_seed(next(count))
        step()

    return run


def prepare(*arguments: Any) -> Callable[[], None]:
    """A step for `peak_in_fresh_process`, after one that gives momentum its memory."""
    step = seeded(make(*arguments).step)
    step()
    return step
