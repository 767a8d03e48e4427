"""An epoch is one line of metrics.jsonl, as far as it can be trusted."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from asose_fast.engine.metric import ACCURACY, Metric

LARGEST = 1e12
"""No metric of a run is beyond this. What is would only spoil the scales."""


@dataclasses.dataclass(frozen=True)
class Epoch:
    """A report takes this from a record. What is missing in the record, or of a wrong type, is missing here."""

    epoch: int
    """Epochs count from 1."""
    phase: str
    numbers: dict[str, float]
    """It has every finite number, by its name."""
    layers: dict[str, list[float]]
    """It has every list of numbers, one a layer, by its name. NaN stands for what is no number."""
    path: list[str]
    """Every layer has a leading operation."""
    health: list[dict[str, Any]]
    growth: dict[str, Any]
    """It is empty where the network did not grow."""
    guard: dict[str, Any]
    lengthened: dict[str, Any]
    """After this epoch the last phase was made longer, `from` so many epochs `to` so many; else it is empty."""
    planned: dict[str, Any]
    """After this epoch the phases were planned again, by name so many epochs; else it is empty."""
    finals: list[dict[str, Any]]
    """These rungs of the finals ended in this epoch."""
    metric: Metric = ACCURACY
    """The numbers called accuracy are of this."""

    def number(self, name: str) -> float:
        """Returns the number of this name, or NaN where there is none."""
        return self.numbers.get(name, math.nan)

    @property
    def grown(self) -> bool:
        """Says whether the network grew at the end of this epoch."""
        return self.growth.get("kind") in ("deeper", "wider", "branch")


def number(value: Any) -> float:
    """Returns `value` as a finite number, and NaN where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    return float(value) if abs(value) <= LARGEST else math.nan


def parse(record: Any) -> Epoch | None:
    """Returns the epoch of a record, or None where it does not say which it is of."""
    if not isinstance(record, dict) or type(record.get("epoch")) is not int or not 1 <= record["epoch"] <= LARGEST:
        return None
    numbers = {str(name): value for name, found in record.items() if not math.isnan(value := number(found))}
    layers = {
        str(name): [number(item) for item in found]
        for name, found in record.items()
        if isinstance(found, list) and found and all(not isinstance(item, (str, dict, list)) for item in found)
    }
    path, health, finals = record.get("path"), record.get("health"), record.get("finals")
    return Epoch(
        epoch=record["epoch"],
        phase=str(record.get("phase", "training")),
        numbers=numbers,
        layers=layers,
        path=[str(name) for name in path] if isinstance(path, list) else [],
        health=[item for item in health if isinstance(item, dict)] if isinstance(health, list) else [],
        growth=_dict(record.get("growth")),
        guard=_dict(record.get("guard")),
        lengthened=_dict(record.get("lengthened")),
        planned=_dict(record.get("planned")),
        finals=[rung for rung in finals if isinstance(rung, dict)] if isinstance(finals, list) else [],
        metric=Metric.of(record),
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
