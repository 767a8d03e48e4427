"""The pixels of a set that is too large for the memory lie decoded in one file, which later epochs and runs read."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from asose_fast.data.errors import DataError
from asose_fast.data.images import FileImages, chunks
from asose_fast.paths import given_path

AUTO = "auto"
SPARE = 1_000_000_000
"""So many bytes stay free on the disk."""
_FORMAT = 1
"""Files of another way to decode have other names."""


@dataclasses.dataclass(frozen=True)
class CachedImages:
    """Image n is number `rows[n]` in a file that holds the pixels of one image after the other.

    They are read, and not mapped into memory, so that the memory of a process does not grow with the file.
    """

    path: str
    shape: tuple[int, int, int]
    rows: np.ndarray[Any, np.dtype[np.int64]]
    resizing: str

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, numbers: Sequence[int]) -> Tensor:
        pixels = np.empty((len(numbers), *self.shape), np.uint8)
        size = math.prod(self.shape)
        with open(self.path, "rb", buffering=0) as file:
            for row, number in zip(pixels, numbers, strict=True):
                file.seek(int(self.rows[number]) * size)
                if file.readinto(row.data) != size:
                    raise DataError(f"{self.path} has become shorter: remove it, and it is made anew")
        return torch.from_numpy(pixels)

    def require_whole(self) -> None:
        """Does nothing: what is decoded is whole."""


class NoRoomError(Exception):
    """There is no place for the pixels; the message says why."""


def folder_of(cache_root: str) -> Path:
    """Returns the folder that the setting names; `auto` is asose_fast in the user's cache."""
    if cache_root != AUTO:
        return given_path(cache_root)
    return given_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "asose_fast"


def cached(images: FileImages, cache_root: str) -> CachedImages:
    """Returns the same images, decoded in a file below `cache_root`. It is made where it is not there.

    The name of the file is a digest of how images are decoded, and of all their paths, sizes and times of change: other
    images have another. What a killed process has left is gone on with, and a process that finds another at work waits
    for it.

    Raises NoRoomError where the file cannot be written, and DataError that names all images that are broken.
    """
    folder, order = folder_of(cache_root), sorted(range(len(images)), key=images.paths.__getitem__)
    in_order = dataclasses.replace(images, paths=[images.paths[number] for number in order])
    size, path = len(images) * math.prod(images.shape), folder / f"{_digest(in_order)}.pixels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _holds(path, size):
            _make(path, in_order, size)
    except OSError as error:
        raise NoRoomError(f"{folder} cannot be written: {error.strerror or error}") from error
    return CachedImages(str(path), images.shape, np.argsort(order), images.resizing)


def _digest(images: FileImages) -> str:
    digest = hashlib.sha256(repr((_FORMAT, images.mode, images.side, images.resize)).encode())
    for path in images.paths:
        found = os.stat(path)
        digest.update(
            f"{os.path.abspath(path)}\0{found.st_size}\0{found.st_mtime_ns}\0".encode(errors="surrogateescape")
        )
    return digest.hexdigest()[:32]


def _holds(path: Path, size: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size == size
    return False


def _make(path: Path, images: FileImages, size: int) -> None:
    """Decodes the images that an unfinished file lacks, and gives it its name."""
    part = path.with_suffix(".part")
    with _alone(part) as file:
        if _holds(path, size):  # another process has made it while this one waited
            part.unlink()
            return
        one = math.prod(images.shape)
        done = min(file.seek(0, os.SEEK_END) // one, len(images))
        file.truncate(done * one)
        left, free = size - done * one, shutil.disk_usage(path.parent).free
        if free - left < SPARE:
            part.unlink()
            raise NoRoomError(f"{path.parent} has {free / 1e9:.1f} GB free, and {left / 1e9:.1f} GB are needed")
        rest = dataclasses.replace(images, paths=images.paths[done:])
        try:
            for chunk in chunks(rest, "Decoding images"):
                file.write(chunk.numpy().data)
            file.flush()
            os.fsync(file.fileno())
        except (DataError, OSError):
            part.unlink()  # repaired images have another file, and a full disk needs the room
            raise
        part.rename(path)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[BinaryIO]:
    """Opens a file to append to, which no other process has open in this way."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    yield file
                    return
