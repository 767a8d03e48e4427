"""One image file to one array, by Pillow."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from asose_fast.data.errors import DataError

# Converting these to RGB would clip all values above 255.
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


class Header(NamedTuple):
    mode: str
    size: tuple[int, int]  # width, height


def header(path: str) -> Header:
    """Mode and size of an image, without decoding it. Raises DataError, which names the file."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(
            f"{path} is no file, though its name is that of an image: remove it"
        )  # a pipe would be waited for
    try:
        with Image.open(path) as image:
            mode, size = image.mode, image.size
    except Exception as error:
        raise _unreadable(path, error) from error
    if mode in _WIDE_MODES:
        raise DataError(f"{path} has more than 8 bits a channel (mode {mode}): convert it to 8 bits")
    return Header(mode, size)


def pixels(path: str, mode: str, side: int | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decodes an image.

    Args:
        path: an image file.
        mode: "L" or "RGB".
        side: resized so that the shorter side has this length, then cropped to the central square; None: as it is.

    Returns:
        uint8 (H, W) for "L", (H, W, 3) for "RGB", with a trailing 1 for "L".

    Raises:
        DataError: the file is broken; the message names it.
    """
    try:
        with Image.open(path) as image:
            if side is not None:
                # A JPEG decodes at 1/2, 1/4 or 1/8 of its size for less; twice the side keeps the resize smooth.
                image.draft(mode, (2 * side, 2 * side))
            converted = image.convert(mode)
    except Exception as error:
        raise _unreadable(path, error) from error
    if side is not None:
        converted = ImageOps.fit(converted, (side, side), Image.Resampling.BILINEAR)
    array = np.asarray(converted)
    return array[..., None] if mode == "L" else array


def _unreadable(path: str, error: Exception) -> DataError:
    # Pillow raises OSError, SyntaxError, ValueError, struct.error, DecompressionBombError ... by format and damage.
    return DataError(f"cannot read the image {path}: {error}. Repair or remove it")
