"""The metrics of a run as a file, which grows by a line an epoch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from asose_fast.engine.loop import RunState
from asose_fast.engine.observer import Observer
from asose_fast.engine.record import Record
from asose_fast.store.checkpoint import write_atomically


class MetricsObserver(Observer):
    """`metrics.jsonl`: one line an epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def restore(self, history: Sequence[Record]) -> None:
        """Makes the file that of the epochs in `history`: what a resumed run will do again is taken out."""
        write_atomically(self.path, "".join(map(_line, history)).encode())

    def on_epoch_end(self, state: RunState, record: Record) -> None:
        try:
            with self.path.open("a") as file:
                file.write(_line(record))
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error  # a failed write names no file


def _line(record: Record) -> str:
    return json.dumps(record) + "\n"
