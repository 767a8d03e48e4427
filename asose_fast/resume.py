"""Going on from the newest good checkpoint of a run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from asose_fast import checkpoint_folder, provenance
from asose_fast.checkpoint import CheckpointError
from asose_fast.config import Config
from asose_fast.search import Trainer


class Resumable(NamedTuple):
    """A run as its newest good checkpoint has it."""

    path: Path
    config: Config
    state: dict[str, Any]

    def restore(self, trainer: Trainer, warn: Callable[[str], None]) -> None:
        """Puts a trainer of this config into the state. `warn` is told what may make the result differ.

        Raises CheckpointError where data or release have changed, or the state does not fit the trainer.
        """
        try:
            provenance.check(self.state["provenance"], provenance.collect(trainer.data, trainer.device), warn)
            trainer.load_state_dict(self.state)
        except Exception as error:  # the checksum is right, so the file is whole, but not what a trainer wrote
            raise _unfit(self.path, error) from error


def read(run: Path, warn: Callable[[str], None]) -> Resumable:
    """Reads the newest good checkpoint of a run folder; `warn` is told of damaged ones.

    Raises CheckpointError.
    """
    path, state = checkpoint_folder.load_newest(run / "checkpoints", warn)
    try:
        return Resumable(path, Config.from_dict(state["config"]), state)
    except Exception as error:
        raise _unfit(path, error) from error


def _unfit(path: Path, error: Exception) -> CheckpointError:
    told = str(error) if type(error) is ValueError else f"its state does not fit: {type(error).__name__}: {error}"
    return CheckpointError(f"cannot go on from {path}: {told}")
