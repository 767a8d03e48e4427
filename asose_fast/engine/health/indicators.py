"""The health indicators of a search, each with its bound (docs/concepts.md)."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from asose_fast.config import HealthConfig
from asose_fast.engine.metric import Metric

ENTROPY_OF_TEN = 1.8
"""This bound on the entropy of ten candidates is that of the original search, in nats."""


@dataclasses.dataclass(frozen=True)
class Indicator:
    """One indicator's value, its bound as text, and whether it holds."""

    name: str
    value: float
    bound: str
    ok: bool


def indicators(
    config: HealthConfig, classes: int | None, record: dict[str, Any], history: Sequence[dict[str, Any]]
) -> list[Indicator]:
    """The indicators of an epoch.

    Args:
        config: the bounds.
        classes: number of classes; None: what is called accuracy has no bound.
        record: the epoch's metrics (`batch_size_errors`, `max_weight`, `entropy`, `candidates` of the layer that has
            most, `train_accuracy`, `images_per_second`, `phase` and, where the blocks are judged, `weightless`, a
            share).
        history: metrics of the epochs before it. Throughput is compared since the last growth, which makes a step
            costlier.
    """
    rates = [r["images_per_second"] for r in _since_growth([*history, record]) if r["phase"] == record["phase"]]
    steadiness = statistics.median(rates[-5:]) / statistics.median(rates)
    lowest = -math.inf if classes is None else min(0.5, config.accuracy_above_chance / classes)
    errors, weight, entropy = record["batch_size_errors"], record["max_weight"], record["entropy"]
    most_entropy = entropy_bound(record["candidates"]) if config.entropy_below is None else config.entropy_below
    metric = Metric.of(record)
    accuracy = record["train_accuracy"]  # of the sampled paths: what falls where a search loses its footing
    bound = "none" if classes is None else f"> {lowest:g}"
    found = [
        Indicator("batch-size errors", errors, "= 0", errors == 0),
        Indicator(
            "max architecture weight", weight, f"> {config.max_weight_above:g}", weight > config.max_weight_above
        ),
        Indicator("architecture entropy", entropy, f"< {most_entropy:.3g}", entropy < most_entropy),
        Indicator(f"search {metric.name}", metric.value(accuracy), bound, accuracy > lowest),
        Indicator(
            "throughput / median", steadiness, f"> {config.throughput_steady:g}", steadiness > config.throughput_steady
        ),
    ]
    if (share := record.get("weightless")) is not None:
        most = config.weightless_most
        found.append(Indicator("blocks without weights", share, f"<= {most:g}", share <= most))
    return found


def entropy_bound(candidates: int) -> float:
    """Returns 1.8 ln K / ln 10 nats of K candidates, and of one what it is of two.

    One number for all would be kept whatever happens where there are few: the entropy of 5 is at most ln 5 = 1.61.
    """
    return ENTROPY_OF_TEN * math.log(max(2, candidates)) / math.log(10)


def _since_growth(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The epochs of the network as it is now; it grows when an epoch ends."""
    grown = [i for i, r in enumerate(records[:-1]) if (r.get("growth") or {}).get("kind", "none") != "none"]
    return records[grown[-1] + 1 :] if grown else records
