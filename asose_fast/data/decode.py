"""Pillow decodes one image file to one array."""

from __future__ import annotations

import functools
import os
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from asose_fast.data.errors import DataError

# Converting these to RGB would clip all values above 255.
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif"),
    *(".heic", ".heif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm"),
)
# How an image is turned upright that was stored as EXIF's orientation says; no entry for 1, upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Header(NamedTuple):
    mode: str
    size: tuple[int, int]  # width, height, of the image upright


@functools.cache
def extensions() -> tuple[str, ...]:
    """Returns the extensions of the image files that are read. Pillow, as it was built and with its plugins, has a
    reader for them."""
    Image.init()
    formats = Image.registered_extensions()
    return tuple(extension for extension in _EXTENSIONS if formats.get(extension) in Image.OPEN)


def is_image(path: str) -> bool:
    """Says whether the content of a file is in one of the formats that are read."""
    formats = {Image.registered_extensions()[extension] for extension in extensions()}
    try:
        with Image.open(path, formats=sorted(formats)):
            return True
    except Exception:  # many types, by format and damage
        return False


def header(path: str) -> Header:
    """Returns mode and size of an image, without decoding it. Raises DataError, which names the file."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(
            f"{path} is no file, though its name is that of an image: remove it"
        )  # a pipe would be waited for
    try:
        with Image.open(path) as image:
            mode, (width, height) = image.mode, image.size
            # A TIFF's size is that of the upright image already.
            if image.format != "TIFF" and _orientation(image) >= 5:
                width, height = height, width
    except Exception as error:
        raise _unreadable(path, error) from error
    if mode in _WIDE_MODES:
        raise DataError(f"{path} has more than 8 bits a channel (mode {mode}): convert it to 8 bits")
    return Header(mode, (width, height))


def pixels(path: str, mode: str, side: int | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Decodes an image and turns it upright. Of several frames it takes the first.

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
            if (turn := _UPRIGHT.get(_orientation(image))) is not None:
                converted = converted.transpose(turn)
    except Exception as error:
        raise _unreadable(path, error) from error
    if side is not None:
        converted = ImageOps.fit(converted, (side, side), Image.Resampling.BILINEAR)
    array = np.asarray(converted)
    return array[..., None] if mode == "L" else array


def _orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation, 1 to 8, as far as it is known. A PNG may have it behind the pixels, and tells it
    once they are decoded. (Its own `getexif` would decode them.) The result is 1 where EXIF is damaged, as viewers
    take it."""
    try:
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # many types, by format and damage
        return 1


def _unreadable(path: str, error: Exception) -> DataError:
    # Pillow raises OSError, SyntaxError, ValueError, struct.error, DecompressionBombError ... by format and damage.
    return DataError(f"cannot read the image {path}: {error}. Repair or remove it")
