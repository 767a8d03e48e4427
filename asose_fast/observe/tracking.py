"""Which service for experiments a run is told to, over all of its interruptions."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from asose_fast import files
from asose_fast.observe.tracker import Tracker
from asose_fast.store.checkpoint import write_json
from asose_fast.store.run_folder import TRACKED

Service = Literal["wandb", "mlflow"]
TRACK = "The service that the run is told to: wandb or mlflow. A run that goes on keeps its own; default: none."
"""The help of the option."""


def require(service: Service) -> None:
    """Raises ValueError where the package of a service is missing."""
    found = find_spec(service)
    if found is None or found.origin is None:  # a folder of this name, as wandb leaves one, is found without an origin
        raise ValueError(
            f"--track {service} needs a package that is not installed: pip install 'asose_fast[{service}]'"
        )


def remembered(folder: Path) -> tuple[Service, str] | None:
    """Returns which service follows the run in a folder, and under what identity; None: none does."""
    if not (folder / TRACKED).exists():
        return None
    said = files.read_json(folder / TRACKED)
    if not isinstance(said, dict) or said.get("service") not in get_args(Service):
        raise ValueError(f"{folder / TRACKED} is damaged: remove it, and give --track anew")
    return said["service"], str(said.get("identity"))


def begin(service: Service | None, folder: Path, settings: Mapping[str, Any], *, goes_on: bool) -> Tracker | None:
    """Begins to track a run, or goes on with what its folder remembers; None where nobody asks for it.

    Raises ValueError where the package is missing, the service refuses, or the run is tracked by another.
    """
    known = remembered(folder) if goes_on else None
    if known and service not in (None, known[0]):
        raise ValueError(f"{folder} is tracked by {known[0]}: leave --track {service} out")
    service, identity = known or (service, None)
    if service is None:
        return None
    require(service)
    try:
        if service == "wandb":
            from asose_fast.observe.wandb import WandbTracker

            return WandbTracker(folder, settings, identity)
        from asose_fast.observe.mlflow import MlflowTracker

        return MlflowTracker(folder, settings, identity)
    except Exception as error:
        raise ValueError(f"--track {service}: {str(error).strip() or type(error).__name__}") from error


def remember(tracker: Tracker, folder: Path) -> None:
    """Has the folder know by whom and under what identity its run is tracked. Raises CheckpointError."""
    write_json(folder / TRACKED, {"service": tracker.service, "identity": tracker.identity})
