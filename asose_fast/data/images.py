"""Images of one size are read by number, from an array, or from files as they are asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from asose_fast.data import decode
from asose_fast.data.decode import Header
from asose_fast.data.errors import DataError, listed
from asose_fast.data.parallel import in_threads
from asose_fast.data.size import chosen_side, resizing


class Images(Protocol):
    """This protocol stands for N images of one shape. They may be sent to other processes."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Returns (H, W, C), the shape of each image."""

    @property
    def resizing(self) -> str:
        """Says why the images are resized to a side that nobody asked for; empty where they are not."""

    def __len__(self) -> int: ...

    def read(self, numbers: Sequence[int]) -> Tensor:
        """Returns the images of these numbers, uint8 (n, H, W, C) on the CPU. Raises DataError for one that is
        broken."""

    def require_whole(self) -> None:
        """Raises DataError that names all images that are broken."""


@dataclasses.dataclass(frozen=True)
class ArrayImages:
    """The images are decoded already, uint8 (N, H, W, C)."""

    pixels: Tensor

    @property
    def resizing(self) -> str:
        """Returns nothing: they are as they are."""
        return ""

    @property
    def shape(self) -> tuple[int, int, int]:
        _, height, width, channels = self.pixels.shape
        return height, width, channels

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, numbers: Sequence[int]) -> Tensor:
        return self.pixels[torch.as_tensor(numbers, dtype=torch.int64)]

    def require_whole(self) -> None:
        """Does nothing: what is decoded is whole."""


@dataclasses.dataclass(frozen=True)
class FileImages:
    """The image files are decoded at every read to `mode` ("L" or "RGB") and to squares of `side` pixels."""

    paths: Sequence[str]
    mode: str
    side: int
    resize: bool
    resizing: str = ""
    """Says why the images are resized to this side, where nobody asked for it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.side, self.side, 1 if self.mode == "L" else 3

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, numbers: Sequence[int]) -> Tensor:
        pixels = np.empty((len(numbers), *self.shape), np.uint8)
        for row, number in zip(pixels, numbers, strict=True):
            row[:] = decode.pixels(self.paths[number], self.mode, self.side if self.resize else None)
        return torch.from_numpy(pixels)

    def require_whole(self) -> None:
        require_whole(self.paths)


def chunks(images: Images, title: str) -> Iterator[Tensor]:
    """Reads all images, in order, some at a time; `title` is what the progress bar says. Raises DataError that names
    all that are broken."""
    try:
        yield from in_threads(images.read, len(images), title)
    except DataError:
        images.require_whole()
        raise


def require_whole(paths: Sequence[str]) -> None:
    """Decodes all files, and raises DataError that names those of which no image can be used."""
    broken = [
        said
        for chunk in in_threads(lambda chunk: [_broken(paths[i]) for i in chunk], len(paths), "Looking for more")
        for said in chunk
        if said
    ]
    if len(broken) == 1:
        raise DataError(broken[0])
    if broken:
        raise DataError(listed("images cannot be used", broken))


def _broken(path: str) -> str | None:
    try:
        decode.header(path)
        decode.pixels(path, "RGB", None)
    except DataError as error:
        return str(error)
    return None


def read_headers(paths: Sequence[str]) -> list[Header]:
    """Returns the headers of all files. Raises DataError that names all of which no image can be used."""
    try:
        return [
            header
            for chunk in in_threads(
                lambda chunk: [decode.header(paths[i]) for i in chunk], len(paths), "Reading headers"
            )
            for header in chunk
        ]
    except DataError:
        require_whole(paths)
        raise


def open_files(paths: Sequence[str], image_size: int | None) -> FileImages:
    """Reads the headers of all files to find their common mode and size, without decoding any.

    Args:
        paths: at least one image file.
        image_size: side to resize to; None: as `size.chosen_side` of the images' own sizes.

    Returns:
        The images, in grey where all are grey, else in RGB.

    Raises:
        DataError: files are no images or have more than 8 bits a channel, and all are named.
    """
    headers = read_headers(paths)
    mode = "L" if all(header.mode in ("1", "L") for header in headers) else "RGB"
    if image_size is not None:
        return FileImages(paths, mode, image_size, resize=True)
    sizes = [header.size for header in headers]
    side = chosen_side(sizes)
    if side is None:
        return FileImages(paths, mode, sizes[0][0], resize=False)
    return FileImages(paths, mode, side, resize=True, resizing=resizing(sizes, side))
