"""The metrics of a run as events for TensorBoard."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from asose_fast.engine.observer import Observer
from asose_fast.engine.record import Record
from asose_fast.engine.state import SearchState
from asose_fast.observe.scalars import scalars


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
        for name, value in scalars(record).items():
            self._writer.add_scalar(name, value, record["epoch"])
        if record["phase"] not in ("finals", "optimize"):  # which leave alpha as it is
            for layer, row in enumerate(state.selector.logits().detach().cpu(), start=1):
                self._writer.add_histogram(f"alpha/{layer:02d}", row, record["epoch"], bins=16)
        self._writer.flush()


def tensorboard(folder: Path, first_epoch: int, warn: Callable[[str], None]) -> list[Observer]:
    """The observer, or none for a folder that TensorBoard cannot write to: it takes names in UTF-8 only."""
    try:
        return [TensorBoardObserver(folder, first_epoch)]
    except UnicodeEncodeError:
        warn(f"no events for TensorBoard: the name of {folder} is no UTF-8 in this locale")
        return []
