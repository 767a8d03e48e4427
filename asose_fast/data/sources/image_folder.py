"""A user's own images: one folder a class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from asose_fast.data import stratify
from asose_fast.data.errors import DataError, DataNotFoundError
from asose_fast.data.images import FileImages, open_files
from asose_fast.data.seeds import generator
from asose_fast.data.sources.source import Source, numbered
from asose_fast.data.torchvision_compat import import_torchvision

_TEST_FRACTION = 0.2


def image_folder(root: Path, image_size: int | None) -> Source:
    """root/train/<class>/ and root/test/<class>/, or root/<class>/ of which 20 % of each class are the test images.

    Other folders beside train and test are not read. Raises DataError and DataNotFoundError.
    """
    if not root.is_dir():
        raise DataNotFoundError(
            f"there is no folder {root.absolute()}: imagefolder:PATH wants one folder a class in it"
        )
    if (root / "train").is_dir() and (root / "test").is_dir():
        classes, paths, labels = _scan(root / "train")
        test_classes, test_paths, test_labels = _scan(root / "test")
        _check_same_classes(root, classes, test_classes)
        train, test = numbered(len(paths), len(test_paths))
        paths, labels = paths + test_paths, torch.cat((labels, test_labels))
    else:
        _check_not_half_split(root)
        classes, paths, labels = _scan(root)
        train, test = stratify.divided(labels, classes, _TEST_FRACTION, generator(0, "test"), "training and test")

    def open(numbers: Tensor) -> FileImages:
        return open_files([paths[number] for number in numbers.tolist()], image_size)

    return Source(classes, labels, train, test, open, mirror=True)


def _scan(folder: Path) -> tuple[tuple[str, ...], list[str], Tensor]:
    """Classes, files and labels below `folder`, in the order of torchvision's ImageFolder."""
    scanning = import_torchvision().datasets.folder
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if not classes:
        raise DataNotFoundError(f"{folder} has no folders in it: it must hold one folder a class")
    if len(classes) == 1:
        raise DataError(f"{folder} has one class only, {classes[0]!r}: a classifier needs at least two class folders")
    numbers = {name: number for number, name in enumerate(classes)}
    found = [
        (path, label)
        for name, label in numbers.items()
        for path in _files(folder / name)
        if path.lower().endswith(scanning.IMG_EXTENSIONS)
    ]
    labels = torch.tensor([label for _, label in found], dtype=torch.int64)
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise DataNotFoundError(
            f"no images in the class folder(s) {', '.join(str(folder / name) for name in empty)}: "
            f"add some ({' '.join(scanning.IMG_EXTENSIONS)}) or remove the folder"
        )
    return tuple(classes), [path for path, _ in found], labels


def _files(folder: Path) -> Iterator[str]:
    """All files below a folder, links followed. Raises DataError for a link that leads back: it would have no end."""
    for below, names in sorted(_walk(str(folder), [])):
        yield from (os.path.join(below, name) for name in names)


def _walk(folder: str, above: list[str]) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, each with the names that are no folders; `above` are the folders that it is in."""
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(f"the link {folder} leads back to {real}, which it is in: remove it")
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
    folders = [name for name in names if os.path.isdir(os.path.join(folder, name))]
    yield folder, sorted(set(names) - set(folders))
    for name in folders:
        yield from _walk(os.path.join(folder, name), [*above, real])


def _check_same_classes(root: Path, train: tuple[str, ...], test: tuple[str, ...]) -> None:
    if train == test:
        return
    only = {"train": sorted(set(train) - set(test)), "test": sorted(set(test) - set(train))}
    told = "; ".join(f"only {part} has {', '.join(names)}" for part, names in only.items() if names)
    raise DataError(f"{root}/train and {root}/test must have the same class folders: {told}")


def _check_not_half_split(root: Path) -> None:
    """`train` that holds folders is no class: without this, a missing test folder would give wrong labels silently."""
    for there, missing in (("train", "test"), ("test", "train")):
        folder = root / there
        if folder.is_dir() and any(entry.is_dir() for entry in folder.iterdir()):
            raise DataNotFoundError(
                f"{folder} holds class folders, but {root / missing} is missing: add it, or name one folder that "
                "holds the classes themselves, of which 20 % then become the test images"
            )
