"""A run as one of Weights & Biases."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asose_fast.observe.tracker import Tracker


class WandbTracker(Tracker):
    """Numbers of epochs over `epoch`; settings as its config; the result in its summary.

    `WANDB_PROJECT` names the project (asose_fast), and `WANDB_MODE=offline` keeps all on the disk, in the run folder.
    """

    service = "wandb"

    def __init__(self, folder: Path, settings: Mapping[str, Any], identity: str | None = None) -> None:
        """Raises ImportError without the package, and what wandb raises where it cannot begin.

        Args:
            folder: has the files of wandb, and gives the run its name.
            settings: of the run.
            identity: of a run that goes on; None: it is a new one.
        """
        super().__init__()
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "asose_fast"),
            name=folder.name,
            dir=str(folder),
            id=identity,
            resume="allow" if identity else None,
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.config.update(dict(settings), allow_val_change=True)
        self._run.define_metric("*", step_metric="epoch")
        self.identity, self.place = str(self._run.id), str(self._run.url or self._run.dir)

    def tell(self, numbers: Mapping[str, float], epoch: int) -> None:
        self._run.log({"epoch": epoch, **numbers})

    def tell_result(self, numbers: Mapping[str, float]) -> None:
        self._run.summary.update(dict(numbers))

    def end(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)
