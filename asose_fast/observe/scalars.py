"""The numbers of an epoch, by the names under which they are followed."""

from __future__ import annotations

from asose_fast.engine.metric import Metric
from asose_fast.engine.record import Record

BY_LAYER = ("entropy", "max_weight")


def scalars(record: Record) -> dict[str, float]:
    """Returns the numbers of a record, those of every layer too. What is measured has its own kind and sign, where it
    is no accuracy."""
    found = {
        name: value for name, value in _named(record).items() if isinstance(value, (int, float)) and name != "epoch"
    }
    for name in BY_LAYER:
        for layer, value in enumerate(record.get(f"{name}_by_layer", []), start=1):
            found[f"{name}_by_layer/{layer:02d}"] = value
    return found


def _named(record: Record) -> Record:
    metric = Metric.of(record)
    if metric.kind == "accuracy":
        return record
    measured = {"train_accuracy": f"train_{metric.kind}", "valid_accuracy": f"valid_{metric.kind}"}
    own = {name: metric.value(record[key]) for key, name in measured.items() if record[key] is not None}
    return {**own, **{key: value for key, value in record.items() if key not in measured}}
