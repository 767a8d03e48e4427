"""A user's folder holds splits that hold classes, or classes. What is neither is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from asose_fast.data.errors import DataError, DataNotFoundError
from asose_fast.data.sources.walk import LeftOut, folders_in, holds_images

SplitName = Literal["train", "test", "valid"]

_SPLITS: dict[SplitName, str] = {
    "train": "train|training",
    "test": "test|testing",
    "valid": "val|valid|validation|dev|eval|evaluation",
}
_ENDS = r"[\W_]*(set|data|dataset|split|images|imgs)?"


def split_named(name: str) -> SplitName | None:
    """Returns the split that a folder of this name holds, in any case and usual spelling: "Training", "test_set",
    "val"."""
    return next((split for split, names in _SPLITS.items() if re.fullmatch(f"({names}){_ENDS}", name.lower())), None)


def split_folders(root: Path, left_out: LeftOut) -> dict[SplitName, Path]:
    """Returns the folders of train, test and maybe valid, in this order, or none where `root` holds the classes.

    Raises DataError and DataNotFoundError where the folders are neither.
    """
    names = folders_in(root, left_out)
    named = {split: [name for name in names if split_named(name) == split] for split in _SPLITS}
    there = [split for split in _SPLITS if named[split]]
    if not any(folders_in(root / name, LeftOut()) for split in there for name in named[split]):
        # A class may be called train, or test. Two of them are splits.
        if len(there) > 1:
            told = " and ".join(str(root / named[split][0]) for split in there)
            raise DataError(f"{told} hold no class folders: put the images of each split into one folder a class")
        _check_classes(root, names)
        return {}
    found: dict[SplitName, Path] = {}
    for split in there:
        holding = [name for name in named[split] if folders_in(root / name, LeftOut())]
        if len(holding) > 1:
            raise DataError(f"{root} has several folders for one split, {' and '.join(holding)}: keep one of them")
        if holding or split != "valid":
            found[split] = root / (holding or named[split])[0]
    _check_not_half_split(root, found)
    return found


def _check_not_half_split(root: Path, found: dict[SplitName, Path]) -> None:
    missing = [split for split in ("train", "test") if split not in found]
    if not missing:
        return
    there = next(iter(found.values()))
    told = f"{root / missing[0]} is missing: add it"
    if len(missing) > 1:
        told = f"{root}/train and {root}/test are missing: add them"
    if "train" in found and "valid" in found:
        told += f", rename {found['valid']} to it (validation images are then taken from the training images)"
    raise DataNotFoundError(
        f"{there} holds class folders, but {told}, or name one folder that holds the classes themselves, of which 20 % "
        "then become the test images"
    )


def _check_classes(root: Path, names: list[str]) -> None:
    """Refuses folders of folders, which may be sets or splits. A network would be trained on which of them an image is
    from."""
    inner = {name: folders_in(root / name, LeftOut()) for name in names}
    for name, folders in inner.items():
        if len({split_named(folder) for folder in folders} - {None}) > 1:
            raise DataError(
                f"{root / name} holds the folders {', '.join(folders)} and is taken for no class: give "
                f"imagefolder:{root / name}, or, where {name} is a class, write {root}/train/{name}/ and "
                f"{root}/test/{name}/"
            )
    if not any(inner.values()) or any(holds_images(root / name) for name in names):
        return
    if len(names) == 1:
        raise DataError(
            f"{root} has one folder only, {names[0]!r}, and no images in it but folders: "
            f"if those are the classes, give imagefolder:{root / names[0]}"
        )
    if len({split for split in _SPLITS for name in names if re.search(_SPLITS[split], name.lower())}) > 1:
        raise DataError(
            f"the folders {', '.join(names)} in {root} seem to be splits: name them train and test, and give each "
            "one folder a class"
        )
    shared = sorted(set.intersection(*map(set, inner.values())))
    if len(shared) > 1:
        raise DataError(
            f"the folders {', '.join(names)} in {root} hold no images, but each of them folders called "
            f"{', '.join(shared)}: if the latter are the classes, give imagefolder:{root / names[0]}, for one; if the "
            "former are, put their images into them"
        )
