"""What a network costs and how good it is, as text: alike in the tables of a report and on the console."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asose_fast.engine.alpha.budget import PER_MILLISECOND
from asose_fast.engine.comparison.trained import Trained
from asose_fast.report import intervals, svg
from asose_fast.space.latency import Target

HEADS = [(name, "n") for name in ("Test accuracy", "Parameters", "MFLOPs", "Size, kB", "Latency, ms")]
"""The columns of `worded` in a table of a report, each with its class."""


def worded(network: Trained, test_images: int) -> tuple[str, ...]:
    """Words what `HEADS` names. What was not measured is a gap."""
    interval = intervals.of_share(network.test_accuracy, test_images)
    return (
        f"{svg.percent(network.test_accuracy)} {interval.words}",
        f"{network.parameters:,}",
        f"{network.flops / 1e6:.2f}",
        svg.NONE if network.size is None else kilobytes(network.size),
        " to ".join(_milliseconds(network)) or svg.NONE,
    )


def said_of_latency(target: Target) -> str:
    """Says what a latency is."""
    return (
        f"Size is that of the weights. Latency is of {target.words}: the first and the last decile of repeated runs, "
        "measured once, where the command ran."
    )


def kilobytes(size: float) -> str:
    """Words a number of bytes, without the unit."""
    return f"{size / 1000:,.1f}"


def summary(network: Trained, test_images: int, target: Target) -> dict[str, Any]:
    """Returns what summary.json says of a network, with null for what was not measured."""
    low, high = (ns and ns / PER_MILLISECOND for ns in (network.latency, network.latency_high))
    return {
        "name": network.name,
        "operations": network.operations,
        "test_accuracy": network.test_accuracy,
        "interval": list(intervals.of_share(network.test_accuracy, test_images)),
        "parameters": network.parameters,
        "flops": network.flops,
        "size": network.size,
        "latency": None if low is None else {**target._asdict(), "milliseconds": low, "high": high},
    }


def _milliseconds(network: Trained) -> Iterator[str]:
    """Words the first decile of repeated runs and the last one, as far as they are known."""
    for nanoseconds in (network.latency, network.latency_high):
        if nanoseconds is not None:
            yield f"{nanoseconds / PER_MILLISECOND:.3g}"
