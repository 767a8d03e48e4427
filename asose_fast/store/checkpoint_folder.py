"""A run keeps its newest checkpoints under their epoch and step, and `last.pt` as another name of the newest.

`last.pt` is a hard link, so nothing that happens to other names can make it point nowhere. Resuming does not need it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asose_fast.store import checkpoint
from asose_fast.store.checkpoint import CheckpointError, DamagedCheckpointError

_NAME = re.compile(r"epoch-(\d+)-step-(\d+)\.pt")


def save_newest(folder: Path, epoch: int, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes the checkpoint of `epoch` completed epochs and `step` steps of the next, and removes those beyond `keep`.

    Raises CheckpointError; what was there is then still there.
    """
    path = folder / f"epoch-{epoch:04d}-step-{step:06d}.pt"
    checkpoint.save(path, state)
    _name_last(path)
    _remove_others(path, keep)
    return path


def load_newest(folder: Path, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    """Returns the newest good checkpoint and its path; `warn` is told of each newer one that is damaged.

    Raises CheckpointError where there is none, none is good, or the newest is of another version.
    """
    damaged: list[DamagedCheckpointError] = []
    for path in [*_newest_first(folder), *(p for p in [folder / "last.pt"] if p.exists())]:
        try:
            state = checkpoint.load(path)
        except DamagedCheckpointError as error:
            damaged.append(error)
            continue
        for found in damaged:
            warn(f"{found}; going on from the newest good one, {path.name}")
        return path, state
    if damaged:
        raise CheckpointError("no good checkpoint is left: " + "; ".join(map(str, damaged)))
    raise CheckpointError(f"there is no checkpoint in {folder}: start the run anew")


def holds_checkpoints(folder: Path) -> bool:
    """Returns whether a run can, or could, be resumed from here. One killed before its first checkpoint cannot yet."""
    return any(folder.glob("*.pt"))


def newest(folder: Path) -> Path | None:
    """Returns the newest checkpoint by its name, be it good or damaged; None where none has such a name."""
    return next(iter(_newest_first(folder)), None)


def position(path: Path) -> tuple[int, int]:
    """Reads from the name of a checkpoint how many epochs are completed, and how many steps of the next."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not named epoch-NUMBER-step-NUMBER.pt")
    return int(match[1]), int(match[2])


def _newest_first(folder: Path) -> list[Path]:
    named = [path for path in folder.glob("*.pt") if _NAME.fullmatch(path.name)]
    return sorted(named, key=position, reverse=True)


def _name_last(path: Path) -> None:
    """Makes `last.pt` another name of the file, or a copy where the file system has no hard links."""
    last, temporary = path.with_name("last.pt"), path.with_name(f".last.pt.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
        temporary.replace(last)
        checkpoint.sync_folder(path.parent)
    except OSError:
        checkpoint.write_atomically(last, path.read_bytes())


def _remove_others(newest: Path, keep: int) -> None:
    """Removes all but the `keep` newest up to `newest`, and what a killed process left half-written.

    Whatever is newer was found damaged when the run was resumed: it must not be taken for the newest again.
    """
    kept = [path for path in _newest_first(newest.parent) if position(path) <= position(newest)][:keep]
    for path in [*_newest_first(newest.parent), *newest.parent.glob(".*.pt.*")]:
        if path not in kept:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise CheckpointError(f"cannot remove {path}: {error.strerror or error}") from error
