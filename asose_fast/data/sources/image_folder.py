"""A user's own images lie in one folder a class."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from asose_fast.data import decode
from asose_fast.data.errors import DataError, DataNotFoundError
from asose_fast.data.images import FileImages, open_files
from asose_fast.data.sources.layout import split_folders
from asose_fast.data.sources.source import Source, apart_for_test
from asose_fast.data.sources.walk import LeftOut, by_extension, folders_in, images_below


def image_folder(root: Path, image_size: int | None) -> Source:
    """Returns the source of root/train/<class>/, root/test/<class>/ and maybe root/valid/<class>/, in any case and
    usual spelling. Or it is that of root/<class>/, of which 20 % of each class are the test images.

    Other folders beside the splits are not read. Raises DataError and DataNotFoundError.
    """
    if not root.is_dir():
        raise DataNotFoundError(
            f"there is no folder {root.absolute()}: imagefolder:PATH wants one folder a class in it"
        )
    left_out, notes = LeftOut(), list[str]()
    folders = split_folders(root, left_out)
    valid = None
    if folders:
        unread = sorted(set(folders_in(root, LeftOut())) - {folder.name for folder in folders.values()})
        if unread:
            read = ", ".join(folder.name for folder in folders.values())
            notes.append(f"{root}: beside {read}, these folders are not read: {', '.join(unread)}")
        found = [_scan(folder, left_out) for folder in folders.values()]
        for folder, part in zip(folders.values(), found, strict=True):
            _check_same_classes(folders["train"], found[0].classes, folder, part.classes)
        classes = found[0].classes
        paths = [path for part in found for path in part.paths]
        labels = torch.cat([part.labels for part in found])
        train, test, *rest = torch.arange(len(paths)).split([len(part.paths) for part in found])
        valid = rest[0] if rest else None
    else:
        classes, paths, labels = _scan(root, left_out)
        train, test = apart_for_test(labels, classes)

    def open(numbers: Tensor) -> FileImages:
        return open_files([paths[number] for number in numbers.tolist()], image_size)

    return Source(
        classes,
        labels,
        train,
        test,
        open,
        mirror=True,
        valid=valid,
        notes=(*notes, *left_out.notes(root)),
        names=[path.removeprefix(f"{root}{os.sep}") for path in paths],
    )


class _Scanned(NamedTuple):
    classes: tuple[str, ...]
    paths: list[str]
    labels: Tensor


def _scan(folder: Path, left_out: LeftOut) -> _Scanned:
    """Returns classes, images and labels below `folder`, in the order of torchvision's ImageFolder."""
    classes = folders_in(folder, left_out)
    tables = sorted(folder.glob("*.csv"))
    instead = f". To read labels from a table, give csv:{tables[0]}" if tables else ""
    if not classes:
        raise DataNotFoundError(f"{folder} has no folders in it: it must hold one folder a class{instead}")
    if len(classes) == 1:
        raise DataError(
            f"{folder} has one class only, {classes[0]!r}: a classifier needs at least two class folders{instead}"
        )
    paths, counts, empty, unread = list[str](), list[int](), list[str](), Counter[str]()
    for name in classes:
        others = Counter(left_out.others)
        images = images_below(folder / name, left_out)
        paths += images
        counts.append(len(images))
        if not images:
            empty.append(str(folder / name))
            unread += left_out.others - others
    if empty:
        raise DataNotFoundError(
            f"no images in the class folder(s) {', '.join(empty)}: "
            f"add some ({' '.join(decode.extensions())}) or remove the folder"
            + (f". There are files of which no image is read: {by_extension(unread)}" if unread else "")
        )
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor(counts))
    return _Scanned(tuple(classes), paths, labels)


def _check_same_classes(train: Path, ours: tuple[str, ...], other: Path, theirs: tuple[str, ...]) -> None:
    if ours == theirs:
        return
    only = {train.name: sorted(set(ours) - set(theirs)), other.name: sorted(set(theirs) - set(ours))}
    told = "; ".join(f"only {part} has {', '.join(names)}" for part, names in only.items() if names)
    alike = [(a, b) for a in only[train.name] for b in only[other.name] if _folded(a) == _folded(b)]
    if alike:
        told += f". {' and '.join(map(ascii, alike[0]))} differ in case or Unicode form alone: rename one of them"
    raise DataError(f"{train} and {other} must have the same class folders: {told}")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()
