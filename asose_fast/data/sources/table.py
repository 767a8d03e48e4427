"""A user's own images are named in a table, a row for each, with its label."""

from __future__ import annotations

import csv
import difflib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from asose_fast.data.errors import DataError, DataNotFoundError, listed
from asose_fast.data.images import FileImages, open_files
from asose_fast.data.sources.layout import SplitName, split_named
from asose_fast.data.sources.source import Source, apart_for_test

_NEEDED = ("file", "label")
_KNOWN = (*_NEEDED, "split")


class Row(NamedTuple):
    """A row of a table that may be used."""

    file: str
    """The image, as the table writes it."""
    path: str
    """The image, from the folder of the table on."""
    label: str
    split: SplitName | None
    """None: the table has no column of splits."""


def table(path: Path, image_size: int | None) -> Source:
    """Returns the source of a table with the columns `file`, `label` and maybe `split`.

    A split is train, test or valid, in any case and usual spelling. Without splits 20 % of each class are the test
    images. The order of the rows does not matter.

    Raises DataError and DataNotFoundError.
    """
    rows = sorted(read_rows(path), key=lambda row: row.path)
    classes = tuple(sorted({row.label for row in rows}))
    if len(classes) < 2:
        raise DataError(f"{path} has one label only, {classes[0]!r}: a classifier needs at least two")
    places = {name: number for number, name in enumerate(classes)}
    labels = torch.tensor([places[row.label] for row in rows])
    valid = None
    if rows[0].split is None:
        train, test = apart_for_test(labels, classes)
    else:
        train, test, valid = (_numbers(rows, name) for name in ("train", "test", "valid"))
        _check_splits(path, classes, {"train": labels[train], "test": labels[test], "valid": labels[valid]})
        valid = valid if len(valid) else None

    def open(numbers: Tensor) -> FileImages:
        return open_files([rows[number].path for number in numbers.tolist()], image_size)

    return Source(classes, labels, train, test, open, mirror=True, valid=valid, names=[row.file for row in rows])


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a table, at least one. Files are looked for from the folder of the table on.

    Raises DataError, which names the rows that cannot be used, and DataNotFoundError where the table or images are not
    there.
    """
    if not path.is_file():
        raise DataNotFoundError(f"there is no file {path.absolute()}: csv:PATH wants a table with an image a row")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, reader.fieldnames or ())
            found = [(reader.line_num, values) for values in reader]
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} cannot be read as a table of comma-separated values in UTF-8: {error}") from error
    if not found:
        raise DataError(f"{path} has no rows: it must name an image in each")
    rows = [_row(path, values) for _, values in found]
    lines = [line for line, _ in found]
    if wrong := list(_wrong(lines, rows, [values for _, values in found])):
        raise DataError(listed(f"rows of {path} cannot be used", wrong))
    absent = [f"line {line}: {row.path}" for line, row in zip(lines, rows, strict=True) if not os.path.isfile(row.path)]
    if absent:
        raise DataNotFoundError(listed(f"images of {path} are not there", absent))
    return rows


def _check_columns(path: Path, names: Iterable[str]) -> None:
    columns, advice = list(names), "the first line must be file,label or file,label,split"
    unknown = [name for name in columns if name not in _KNOWN]
    if missing := [name for name in _NEEDED if name not in columns]:
        near = {name: difflib.get_close_matches(name, unknown, n=1, cutoff=0.5) for name in missing}
        meant = "".join(f"; rename {close[0]!r} if you mean that" for close in near.values() if close)
        raise DataError(f"{path} has no column {' and '.join(missing)}{meant}: {advice}, got {','.join(columns)!r}")
    if unknown:
        raise DataError(f"{path} has unknown columns, {', '.join(map(repr, unknown))}: remove them, {advice}")
    if len(set(columns)) < len(columns):
        raise DataError(f"{path} has a column twice: {advice}, got {','.join(columns)!r}")


def _row(path: Path, values: dict[str, str | None]) -> Row:
    file, label, split = ((values.get(name) or "").strip() for name in _KNOWN)
    return Row(file, os.path.normpath(path.parent / file), label, split_named(split) if "split" in values else None)


def _wrong(lines: list[int], rows: list[Row], found: list[dict[str, str | None]]) -> Iterator[str]:
    first: dict[str, int] = {}
    for line, row, values in zip(lines, rows, found, strict=True):
        if None in values:  # what csv has under this key is beyond the columns
            yield f"line {line} has more values than there are columns: put those with a comma into double quotes"
        elif not row.file:
            yield f"line {line}: the file is empty"
        elif not row.label:
            yield f"line {line}: the label of {row.file} is empty"
        elif "split" in values and row.split is None:
            yield f"line {line}: the split of {row.file} is {values['split'] or ''!r}, and must be train, valid or test"
        elif (before := first.setdefault(row.path, line)) != line:
            yield f"line {line}: {row.file} is in line {before} already"


def _numbers(rows: list[Row], split: SplitName) -> Tensor:
    return torch.tensor([number for number, row in enumerate(rows) if row.split == split], dtype=torch.int64)


def _check_splits(path: Path, classes: tuple[str, ...], labels: dict[str, Tensor]) -> None:
    for name, of_split in labels.items():
        if name == "valid" and not len(of_split):
            continue  # validation images are then taken from the training images
        if not len(of_split):
            raise DataError(
                f"{path} has no row of the split {name}: add some, or leave the column split out, and 20 % of each "
                "class become the test images"
            )
        there = set(of_split.tolist())
        if missing := [label for number, label in enumerate(classes) if number not in there]:
            raise DataError(f"the split {name} of {path} has no image of {', '.join(missing)}: every split needs some")
