"""The metrics of a run as events for TensorBoard."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from asose_fast.engine.metric import Metric
from asose_fast.engine.observer import Observer
from asose_fast.engine.record import Record
from asose_fast.engine.state import SearchState


def _silent_on_full_disks(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread. Where that fails, the next call of the writer raises the error again."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


class TensorBoardObserver(Observer):
    """The scalars of every epoch as TensorBoard events, those of every layer too, and alpha as histograms."""

    def __init__(self, folder: Path, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        threading.excepthook = _silent_on_full_disks
        self._writer = SummaryWriter(str(folder), purge_step=first_epoch + 1)

    def on_epoch_end(self, state: SearchState, record: Record) -> None:
        for name, value in _named(record).items():
            if isinstance(value, (int, float)) and name != "epoch":
                self._writer.add_scalar(name, value, record["epoch"])
        for name in ("entropy", "max_weight"):
            for layer, value in enumerate(record[f"{name}_by_layer"], start=1):
                self._writer.add_scalar(f"{name}_by_layer/{layer:02d}", value, record["epoch"])
        if record["phase"] not in ("finals", "optimize"):  # which leave alpha as it is
            for layer, row in enumerate(state.selector.logits().detach().cpu(), start=1):
                self._writer.add_histogram(f"alpha/{layer:02d}", row, record["epoch"], bins=16)
        self._writer.flush()


def _named(record: Record) -> Record:
    """The record with what is measured under its own kind and sign, where that is no accuracy."""
    metric = Metric.of(record)
    if metric.kind == "accuracy":
        return record
    measured = {"train_accuracy": f"train_{metric.kind}", "valid_accuracy": f"valid_{metric.kind}"}
    own = {name: metric.value(record[key]) for key, name in measured.items() if record[key] is not None}
    return {**own, **{key: value for key, value in record.items() if key not in measured}}


def tensorboard(folder: Path, first_epoch: int, warn: Callable[[str], None]) -> list[Observer]:
    """The observer, or none for a folder that TensorBoard cannot write to: it takes names in UTF-8 only."""
    try:
        return [TensorBoardObserver(folder, first_epoch)]
    except UnicodeEncodeError:
        warn(f"no events for TensorBoard: the name of {folder} is no UTF-8 in this locale")
        return []
