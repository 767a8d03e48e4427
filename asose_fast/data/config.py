"""These are the settings of the data. A wrong one raises as soon as it is written down."""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path

from asose_fast.bounds import MOST_SIDE, Settings, bounded, check
from asose_fast.data.errors import DataError
from asose_fast.paths import given_path

NAMED_SETS = ("digits", "cifar10", "cifar100", "fashion-mnist")
FOLDER, TABLE = "imagefolder", "csv"
FILES = (FOLDER, TABLE)
"""The images of these kinds of sets are files of the user's own: kind:PATH."""


@dataclasses.dataclass(frozen=True)
class DataConfig(Settings):
    """The settings say which images to search on, and how they are divided and fed. Raises DataError for a value out of
    range."""

    dataset: str = "digits"
    """The set is digits, cifar10, cifar100, fashion-mnist, imagefolder:PATH or csv:PATH. The PATH of a folder holds
    train/<class>/, test/<class>/ and maybe valid/<class>/. Or it holds <class>/ alone, of which 20 % become the test
    split, the same in every run. That of a table has the columns file, label and maybe split, of train, valid and test;
    without splits, 20 % of each class become the test split. A run keeps PATH as an absolute one."""
    data_root: str = "data"
    """Downloaded sets are kept in this folder."""
    valid_fraction: float = bounded(0.25, above=0, below=1)
    """This share of the training images, of each class alike, becomes the validation split. Own images with a
    validation split of their own keep that."""
    limit_train: int | None = bounded(None, least=1, most=10**9)
    """Use at most this many training images, of each class alike, before validation is split off. Of a validation split
    that the set has, use at most as many."""
    limit_test: int | None = bounded(None, least=1, most=10**9)
    """Use at most this many test images, of each class alike."""
    image_size: int | None = bounded(None, least=1, most=MOST_SIDE)
    """Own images are resized and centre-cropped to squares of this side. By default, those of one square
    size up to 256 stay as they are. Others get the median of their shorter sides, or 128 where that is less, rounded
    down to a multiple of 32."""
    augment: bool = True
    """Shift and mirror the training images at random."""
    mirror: bool | None = None
    """Say whether a mirrored image is still of its class. By default it is, except for digits."""
    memory_limit_gb: float = bounded(4.0, least=0, most=1e9)
    """Decoded sets (uint8) up to this size are kept on the device. Larger ones are read from `cache_root`."""
    cache_root: str | None = "auto"
    """Own images above the memory limit are decoded once, into a file in this folder, where the disk has room. By
    default, auto, it is asose_fast in $XDG_CACHE_HOME or ~/.cache. With null they are decoded anew in every epoch."""
    workers: int = bounded(0, least=0, most=1024)
    """So many processes read a set above the memory limit. With 0 the training process reads it."""

    def __post_init__(self) -> None:
        check(self, DataConfig, DataError)
        _check_dataset(self.dataset)
        if self.image_size is not None and self.kind not in FILES:
            raise DataError(
                f"image_size resizes images of an {FOLDER} or a {TABLE} only: leave it None for {self.dataset}, got "
                f"{self.image_size}"
            )
        super().__post_init__()

    @property
    def downloaded(self) -> bool:
        """Says whether the set is kept in `data_root`."""
        return self.dataset in NAMED_SETS and self.dataset != "digits"

    @property
    def kind(self) -> str:
        """Returns what stands before the colon, or the name of a set without one."""
        return kind_of(self.dataset)

    @property
    def folder(self) -> Path | None:
        """Returns PATH of imagefolder:PATH, and None for other sets."""
        return self._path(FOLDER)

    @property
    def table(self) -> Path | None:
        """Returns PATH of csv:PATH, and None for other sets."""
        return self._path(TABLE)

    def _path(self, kind: str) -> Path | None:
        return given_path(self.dataset.partition(":")[2]) if self.kind == kind else None


def kind_of(dataset: str) -> str:
    """Returns the kind of a set: what stands before the colon, or its name."""
    return dataset.partition(":")[0]


def _check_dataset(dataset: str) -> None:
    kind, _, path = dataset.partition(":")
    if dataset in NAMED_SETS or (kind in FILES and path):
        return
    if kind in FILES:
        what = "folder" if kind == FOLDER else "file"
        raise DataError(f"dataset {dataset!r} lacks the {what}: write {kind}:PATH")
    near = next(iter(difflib.get_close_matches(kind.lower(), (*NAMED_SETS, *FILES), n=1)), None)
    if near in FILES and not _is_path(kind):
        near = f"{near}:{path or 'PATH'}"
    elif _is_path(dataset):
        near = own_images(dataset)
    hint = f"did you mean {near!r}? " if near else ""
    raise DataError(
        f"unknown dataset {dataset!r}: {hint}Known are {', '.join(NAMED_SETS)}, {FOLDER}:PATH and {TABLE}:PATH"
    )


def own_images(path: str) -> str:
    """Returns the set that lies in a folder, or that a table names."""
    return f"{TABLE if path.lower().endswith('.csv') else FOLDER}:{path}"


def _is_path(word: str) -> bool:
    return (
        word.startswith((".", "~"))
        or "/" in word
        or os.sep in word
        or os.path.isdir(word)
        or word.lower().endswith(".csv")
    )
