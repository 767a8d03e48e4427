"""Images are given as files, as folders, in which those of all folders below are found, and by tables."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from asose_fast.data.config import TABLE, kind_of
from asose_fast.data.errors import DataNotFoundError
from asose_fast.data.sources.table import read_rows
from asose_fast.data.sources.walk import LeftOut, images_below
from asose_fast.paths import given_path


class Found(NamedTuple):
    """An image, and the class whose folder it lies in, or that a table says; None: of no class."""

    path: str
    label: str | None


def find(places: Iterable[str | Path], classes: Collection[str]) -> tuple[list[Found], list[str]]:
    """Returns the images, each once, and what a user should know of how they were found, in a sentence each.

    An image below a folder is of the first class among the folders on its way down; where there is none, of that which
    the given folder itself is named after. A file is of the class that its folder is named after. Images that csv:PATH
    names are of the classes that the table says.

    Raises DataNotFoundError that names all places that are not there, or a folder without images, and DataError as
    `table.read_rows`.
    """
    words = list(map(str, places))
    tables = [given_path(word.partition(":")[2]) for word in words if kind_of(word) == TABLE]
    given = [given_path(word) for word in words if kind_of(word) != TABLE]
    if not tables and not given:
        raise DataNotFoundError("no images are given: give image files, or folders that hold some")
    if missing := [str(path) for path in given if not path.exists()]:
        raise DataNotFoundError(f"there is no {', '.join(missing)}: give image files, or folders that hold some")
    found: dict[str, Found] = {}
    notes: list[str] = []
    for path in given:
        left_out = LeftOut()
        below = list(_below(path, set(classes), left_out))
        if not below:
            told = "; ".join(left_out.notes(path))
            raise DataNotFoundError(f"there are no images in {path}" + (f". {told}" if told else ""))
        found |= {image.path: image for image in below}
        notes += left_out.notes(path)
    for table in tables:
        found |= {row.path: Found(row.path, _first([row.label], classes)) for row in read_rows(table)}
    return list(found.values()), notes


def _below(place: Path, classes: set[str], left_out: LeftOut) -> Iterator[Found]:
    if not place.is_dir():
        yield Found(str(place), _first([place.absolute().parent.name], classes))
        return
    for path in images_below(place, left_out):
        folders = os.path.relpath(path, place).split(os.sep)[:-1]
        yield Found(path, _first([*folders, place.resolve().name], classes))


def _first(folders: Iterable[str], classes: Collection[str]) -> str | None:
    return next((name for name in folders if name in classes), None)
