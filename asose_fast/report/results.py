"""What a run has reached, as text: measured values with their names, formats and intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from asose_fast.engine.metric import Metric
from asose_fast.report import intervals, svg
from asose_fast.report.epochs import number
from asose_fast.report.run import Run

SAID_OF_INTERVALS = (
    "Test accuracies have their 95 % intervals in brackets (Wilson). They say what other test images could have given, "
    "and nothing of other seeds."
)
SAID_OF_DIFFERENCES = (
    "Differences have theirs (Newcombe), for images that are not the same: on the same ones they are narrower. Where 0 "
    "is inside, a difference is not shown."
)


def written(metric: Metric, kept: float) -> str:
    """Words a value of a record, and what is no number as none."""
    if not math.isfinite(kept):
        return svg.NONE
    if metric.kind == "accuracy":
        return svg.percent(kept)
    return f"{metric.value(kept):.4g}".replace("-", svg.MINUS)


def images(summary: Mapping[str, Any], split: str) -> int | None:
    """Returns how many images a split has, where the summary says so."""
    found = summary.get("images")
    count = found.get(split) if isinstance(found, dict) else None
    return count if type(count) is int and 0 < count < 10**12 else None


def test_of(summary: Mapping[str, Any], metric: Metric) -> str:
    """Words what was measured on the test images, with its interval where their number is known."""
    found, count = number(summary.get("test_accuracy")), images(summary, "test")
    said = written(metric, found)
    if metric.kind != "accuracy" or count is None or not 0 <= found <= 1:
        return said
    return f"{said} {intervals.of_share(found, count).words}"


def differences(runs: Sequence[Run]) -> list[str]:
    """Words for each run by how many points its test accuracy is above that of the first, with the interval."""
    return [svg.NONE, *(_difference(run, runs[0]) for run in runs[1:])]


def _difference(run: Run, first: Run) -> str:
    sides = [(number(r.summary.get("test_accuracy")), images(r.summary, "test") or 0) for r in (run, first)]
    (one, count), (other, other_count) = sides
    known = all(0 <= share <= 1 and of for share, of in sides)
    if not known or {run.metric.kind, first.metric.kind} != {"accuracy"}:
        return svg.NONE
    low, high = intervals.of_difference(one, count, other, other_count)
    return f"{_signed(one - other)} points [{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", svg.MINUS)


def splits(run: Run) -> str | None:
    """Words how many images each split has."""
    names = {"train": "training", "valid": "validation", "test": "test"}
    found = [f"{count:,} {name}" for key, name in names.items() if (count := images(run.summary, key))]
    return ", ".join(found) or None
