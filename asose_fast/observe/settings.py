"""The settings of a run as a file, which says what the run has planned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from asose_fast.engine.loop import RunState
from asose_fast.engine.observer import Observer
from asose_fast.engine.record import Record
from asose_fast.store.checkpoint import write_atomically


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes `config.yaml`. Raises CheckpointError."""
    write_atomically(folder / "config.yaml", yaml.safe_dump(dict(settings), sort_keys=False).encode())


class SettingsObserver(Observer):
    """Writes `config.yaml` anew where the epochs of a run were planned again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_epoch_end(self, state: RunState, record: Record) -> None:
        if "planned" in record:
            write_settings(self.folder, state.settings)
