"""A run as one of MLflow."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asose_fast.observe.tracker import Tracker

MOST = 100
"""A call takes so many parameters."""


class MlflowTracker(Tracker):
    """Numbers of epochs as metrics, with the epoch as step; settings as parameters; the result as metrics.

    `MLFLOW_TRACKING_URI` says where they go, and `MLFLOW_EXPERIMENT_NAME` names the experiment (asose_fast).
    """

    service = "mlflow"

    def __init__(self, folder: Path, settings: Mapping[str, Any], identity: str | None = None) -> None:
        """Raises ImportError without the package, and what MLflow raises where it cannot begin.

        Args:
            folder: gives the run its name.
            settings: of the run.
            identity: of a run that goes on, whose settings stay; None: it is a new one.
        """
        super().__init__()
        self._entities = importlib.import_module("mlflow.entities")
        mlflow, name = importlib.import_module("mlflow"), os.environ.get("MLFLOW_EXPERIMENT_NAME", "asose_fast")
        self._client, self._epoch = mlflow.MlflowClient(), 0
        if identity is None:
            known = self._client.get_experiment_by_name(name)
            experiment = known.experiment_id if known else self._client.create_experiment(name)
            identity = str(self._client.create_run(experiment, run_name=folder.name).info.run_id)
            written = [self._entities.Param(key, str(value)) for key, value in settings.items()]
            for first in range(0, len(written), MOST):
                self._client.log_batch(identity, params=written[first : first + MOST])
        else:
            self._client.update_run(identity, status="RUNNING")
        self.identity, self.place = identity, f"{mlflow.get_tracking_uri()}, run {identity}"

    def tell(self, numbers: Mapping[str, float], epoch: int) -> None:
        self._epoch, now = epoch, int(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, epoch) for name, value in numbers.items()]
        self._client.log_batch(self.identity, metrics=metrics)

    def tell_result(self, numbers: Mapping[str, float]) -> None:
        self.tell(numbers, self._epoch)

    def end(self, done: bool) -> None:
        self._client.set_terminated(self.identity, status="FINISHED" if done else "KILLED")
