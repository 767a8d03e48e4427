"""What became of a network that was trained from scratch, alike with others."""

from __future__ import annotations

import dataclasses
from typing import Any

from asose_fast.bounds import MOST_COST, Bounds, check_value


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network and what it came to. Raises ValueError for what is none."""

    name: str
    network: dict[str, Any]
    """It has this spec."""
    parameters: int
    flops: int
    seconds: float
    """Its training took so long."""
    test_accuracy: float
    size: int | None = None
    """Its weights have so many bytes, as model.safetensors; None: by an older release, which does not say."""
    latency: int | None = None
    """Nanoseconds (`Timing.low`); None: not measured."""
    latency_high: int | None = None
    """Nanoseconds (`Timing.high`)."""

    def __post_init__(self) -> None:
        for name, kind, bounds in (
            ("name", str, None),
            ("network", dict, None),
            ("parameters", int, Bounds(least=1, most=MOST_COST)),
            ("flops", int, Bounds(least=1, most=MOST_COST)),
            ("seconds", float, Bounds(least=0, most=1e12)),
            ("test_accuracy", float, Bounds(least=0, most=1)),
            ("size", int | None, Bounds(least=1, most=10**15)),
            ("latency", int | None, Bounds(least=1, most=10**15)),
            ("latency_high", int | None, Bounds(least=1, most=10**15)),
        ):
            check_value(name, getattr(self, name), kind, bounds)
        if not all(isinstance(operation, str) for operation in self.operations):
            raise ValueError("operations must be text")

    @property
    def operations(self) -> list[str]:
        """Returns the operation of every block."""
        return [block["candidates"][0] for block in self.network["blocks"]]


def percent(share: float) -> str:
    """Words an accuracy."""
    return f"{100 * share:.1f} %"
