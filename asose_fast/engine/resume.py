"""A run goes on from the newest good checkpoint of its folder."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from asose_fast import files
from asose_fast.bounds import shown
from asose_fast.config import Config
from asose_fast.data.config import FILES
from asose_fast.data.place import PLACES, moved, without_place
from asose_fast.engine.phases import PHASES, plan, planned
from asose_fast.engine.recipe.teacher import require_same, without_path
from asose_fast.engine.state import SearchState
from asose_fast.store import checkpoint_folder, library_search, provenance
from asose_fast.store.checkpoint import CheckpointError


class Resumable(NamedTuple):
    """This is a run as its newest good checkpoint has it."""

    path: Path
    config: Config
    saved: dict[str, Any]

    @property
    def given(self) -> Config:
        """Returns the settings that the run was given; where they have `seconds`, it has planned other epochs."""
        shares = self.saved.get("deadline", {}).get("shares", {}) if self.config.seconds is not None else {}
        return dataclasses.replace(self.config, **{f"{name}_epochs": epochs for name, epochs in shares.items()})

    def planned(self, given: Config) -> Config:
        """Returns settings like those that the run was given, with the epochs that it planned."""
        return planned(given, plan(self.config)) if self.config.seconds is not None else given

    def restore(self, state: SearchState, warn: Callable[[str], None], *, to_train: bool = True) -> None:
        """Puts a state of this config where the run stood. `warn` is told what may make the result differ. Not
        `to_train`, it needs no teacher.

        Raises CheckpointError where data, teacher or release have changed, or the checkpoint does not fit.
        """
        try:
            provenance.check(self.saved["provenance"], state.provenance(), warn)
            if to_train:
                require_same(self.saved.get("teacher"), state.task.identity.get("teacher"))
            state.load_state_dict(self.saved)
            last = plan(self.config)[-1]
            if state.history and state.epochs > last.end:
                state.history[-1]["lengthened"] = {"from": last.epochs, "to": state.phases[-1].epochs}
        except Exception as error:  # the checksum is right, so the file is whole, but not what a search wrote
            raise _unfit(self.path, error) from error


def read(run: str | Path, warn: Callable[[str], None]) -> Resumable:
    """Reads the newest good checkpoint of a run folder; `warn` is told of damaged ones.

    Raises CheckpointError.
    """
    path, state = checkpoint_folder.load_newest(Path(run) / "checkpoints", warn)
    return resumable(path, state)


def folder_of(given: Path) -> Path:
    """Returns the run folder that is meant by itself, by its `checkpoints`, or by a file in either.

    Raises ValueError for a checkpoint that is not the newest, from which a run does not go on.
    """
    inside = given.is_file() or given.name == "checkpoints"
    if not inside or checkpoint_folder.holds_checkpoints(given / "checkpoints"):
        return given
    folder = given.parent.parent if given.is_file() and given.parent.name == "checkpoints" else given.parent
    if not checkpoint_folder.holds_checkpoints(folder / "checkpoints"):
        raise ValueError(f"{given} is of no run: give --resume the run folder, which holds checkpoints")
    if given.suffix == ".pt" and given.name != "last.pt" and given != checkpoint_folder.newest(given.parent):
        raise ValueError(f"a run goes on from its newest checkpoint, and {given} is another: give --resume {folder}")
    return folder


def check_settings(run: Path, config: Config) -> None:
    """Raises ValueError where config.yaml says something else than the checkpoints, whose settings a run goes on under.

    A file that is missing says nothing. The images may lie elsewhere (`placed`). A run of so many seconds may have been
    planned again between file and checkpoint.
    """
    path = run / "config.yaml"
    advice = f"A run goes on under the settings of its checkpoints. Remove {path}, and it is written anew"
    if not os.path.lexists(path):
        return
    try:
        written = files.read_settings(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{error}. {advice}") from error
    written = Config.completed(written)
    if config.seconds is not None:
        written |= {f"{name}_epochs": getattr(config, f"{name}_epochs") for name in PHASES}
    if unlike := differences(config.to_dict(), written):
        raise ValueError(f"the run was begun with other settings than {path} has: {'; '.join(unlike)}. {advice}")


def placed(run: Path, config: Config) -> Config:
    """Returns the settings with the place of the images that config.yaml has, which a run writes each time it goes on.

    A file that is missing says nothing. Raises ValueError for one that cannot be read, or is of other images.
    """
    path = run / "config.yaml"
    written = files.read_settings(path) if os.path.lexists(path) else {}
    there = {name: written[name] for name in PLACES if name in written and written[name] != getattr(config, name)}
    return moved(config, **there)


def as_begun(there: Config, here: Config) -> Config:
    """Returns settings with what a run has chosen for itself, or was begun with before it was a setting, where they
    leave it open."""
    names = ["stem_stride", *(["image_size"] if here.kind in FILES else [])]
    return dataclasses.replace(here, **{n: getattr(there, n) for n in names if getattr(here, n) is None})


def lengthened(config: Config, optimize_epochs: int) -> Config:
    """Returns the settings with a longer last phase. The other phases keep the epochs that were planned for them.

    The derived network, its momentum and the best of its epochs stay, and its learning rate goes on along the cosine of
    the longer phase: that of a network that was finished rises first. From here on the run has no `seconds` to keep.
    Raises ValueError for fewer epochs than planned.
    """
    *others, last = plan(config)
    if optimize_epochs < last.epochs:
        raise ValueError(
            f"the phase optimize has {last.epochs} epochs, and can be made longer only: give more than those to "
            f"--optimize_epochs, got {optimize_epochs}"
        )
    if optimize_epochs == last.epochs:
        return config
    longer = (*others, dataclasses.replace(last, epochs=optimize_epochs))
    return planned(dataclasses.replace(config, seconds=None), longer)


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Says where the settings of a run and those that it is to have differ, except for the places of the images and of
    the teacher."""
    there, here = (without_path(without_place(settings)) for settings in (there, here))
    return [
        f"{name} {_said(there, name)} there, {_said(here, name)} here"
        for name in {**there, **here}
        if name not in here or name not in there or there[name] != here[name]
    ]


def _said(settings: dict[str, Any], name: str) -> str:
    value = settings.get(name, "missing")
    return value if isinstance(value, str) else shown(value)


def resumable(path: Path, state: dict[str, Any]) -> Resumable:
    """Returns a run as this checkpoint has it. Raises CheckpointError."""
    if library_search.wrote(state):
        raise CheckpointError(library_search.refusal(path.parent.parent))
    try:
        return Resumable(path, Config.from_dict(state["config"]), state)
    except Exception as error:
        raise _unfit(path, error) from error


def _unfit(path: Path, error: Exception) -> CheckpointError:
    told = str(error) if type(error) is ValueError else f"its state does not fit: {type(error).__name__}: {error}"
    return CheckpointError(f"cannot go on from {path}: {told}")
