"""A run knows the folders in which its architecture was trained from scratch."""

from __future__ import annotations

import contextlib
from pathlib import Path

from asose_fast import files
from asose_fast.store.checkpoint import write_json

FILE = "retrained.json"
MOST = 100
"""A run remembers so many trainings, the newest."""


def run_of(genotype: Path) -> Path | None:
    """Returns the run that a folder with a genotype is, or that it was derived in; None where there is none."""
    return next((place for place in (genotype, genotype.parent) if (place / "metrics.jsonl").is_file()), None)


def remember(run: Path, out: Path) -> None:
    """Notes that the architecture of `run` was trained in `out`: by its path in the run, or else by its absolute one.

    Raises CheckpointError.
    """
    run, out = run.resolve(), out.resolve()
    name = str(out.relative_to(run) if out.is_relative_to(run) else out)
    names = [known for known in _names(run) if known != name]
    write_json(run / FILE, [*names, name][-MOST:])


def known(run: Path) -> list[Path]:
    """Returns the folders that are still there, the oldest first."""
    return [run / name for name in _names(run) if (run / name).is_dir()]


def _names(run: Path) -> list[str]:
    """What cannot be read says nothing: the trainings themselves lose nothing by it."""
    found = None
    with contextlib.suppress(OSError, ValueError):
        found = files.read_json(run / FILE)
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
