"""What a search measures has a name and a direction, and is written in its own way."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

Kind = Literal["accuracy", "score", "loss"]
"""A share of right predictions; any other score, the higher the better; or a loss, the lower the better."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """What stands in the records as `train_accuracy` and `valid_accuracy`.

    There a loss has its sign changed, so that more is better of whatever is measured. People read it as it is.
    """

    kind: Kind = "accuracy"
    name: str = "accuracy"
    """People know it by this name."""
    loss: str = "cross entropy"
    """The steps minimise this."""

    @staticmethod
    def of(record: Mapping[str, Any]) -> Metric:
        """Returns what a record or a summary says, and accuracy where it says nothing that is known."""
        kind: Kind | None = next((known for known in get_args(Kind) if known == record.get("metric")), None)
        if kind is None:
            return ACCURACY
        name, loss = record.get("metric_name"), record.get("loss_name")
        unnamed = ACCURACY.loss if kind == "accuracy" else "loss"
        return Metric(kind, name if isinstance(name, str) else kind, loss if isinstance(loss, str) else unnamed)

    @property
    def said(self) -> dict[str, str]:
        """Returns what a record says of it, the inverse of `of`."""
        return {"metric": self.kind, "metric_name": self.name, "loss_name": self.loss}

    @property
    def direction(self) -> str:
        """Says which values are better."""
        return "the lower the better" if self.kind == "loss" else "the higher the better"

    def value(self, kept: float) -> float:
        """Returns a value of a record as people read it."""
        return 0.0 - kept if self.kind == "loss" else kept

    def shown(self, kept: float) -> str:
        """Writes a value of a record: an accuracy in percent, anything else with four digits."""
        return f"{kept:.1%}" if self.kind == "accuracy" else f"{self.value(kept):.4g}"


ACCURACY = Metric()
"""A classifier is measured by this where nothing else is asked for."""
