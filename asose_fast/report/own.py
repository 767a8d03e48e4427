"""A report may replace only files that a report has written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from asose_fast.store import run_folder

MARKS = {".html": b'<meta name="generator" content="asose_fast">', ".svg": b'class="figure" role="img"'}
"""A page or drawing that a report has written has this near its beginning."""
BEGINNING = 4096
"""So many bytes count as the beginning."""


def require_own(paths: Iterable[Path]) -> None:
    """Raises FileExistsError for a file that is there and that no report has written."""
    run_folder.require_absent((path for path in paths if not _own(path)), "give another name, or --overwrite")


def _own(path: Path) -> bool:
    if path.suffix == ".png":
        return _own(path.with_suffix(".svg"))  # which is drawn with it
    mark = MARKS.get(path.suffix, MARKS[".html"])
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return mark in file.read(BEGINNING)
