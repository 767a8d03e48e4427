"""The provenance of a run is what it is computed from and with. Resuming it with something else is noticed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from asose_fast import _native
from asose_fast._digest import source_digest
from asose_fast.version import __version__

Provenance = dict[str, Any]


class Digested(Protocol):
    """Such data can be recognised."""

    @property
    def digest(self) -> str:
        """The digest is the same for the same data."""


def collect(data: Digested, device: torch.device) -> Provenance:
    """Collects digests of data and sources, versions, device, and what decides the order of floating-point sums."""
    return {
        "data": data.digest,
        "release": __version__,
        "sources": _sources(),
        "torch": str(torch.__version__),
        "device": device.type,
        "instruction set": None if _native.kernels_missing("cpu") else _native.kernels("cpu").isa(),
        "threads": torch.get_num_threads(),
    }


@functools.cache
def _sources() -> str:
    return source_digest(Path(__file__).parents[1], "*.py")


def check(then: Provenance, now: Provenance, warn: Callable[[str], None]) -> None:
    """Compares what a checkpoint was written with to what goes on from it; `warn` is told what may change the result.

    Raises ValueError where the result would be that of neither: other images (those that were validated on may now be
    trained on), or another release.
    """
    if then["data"] != now["data"]:
        raise ValueError(
            "the images, their labels or their division are not those that the run was started with: restore them, "
            "give the dataset or data_root that has them, or start a new run"
        )
    if then["release"] != now["release"]:
        raise ValueError(
            f"the run was started with asose_fast {then['release']} and this is {now['release']}, which may compute "
            f"something else: install asose_fast=={then['release']}, or start a new run"
        )
    if then["sources"] != now["sources"]:
        warn("the source files of asose_fast have changed since the checkpoint: the rest of the run may differ")
    changed = [key for key in ("torch", "device", "instruction set", "threads") if then[key] != now[key]]
    if changed:
        listed = ", ".join(f"{key} {then[key]} -> {now[key]}" for key in changed)
        warn(f"changed since the checkpoint: {listed}; the rest of the run may differ by rounding")
