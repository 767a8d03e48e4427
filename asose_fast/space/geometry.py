"""The size of images decides how networks of blocks make them smaller: in the stem, and by poolings."""

from __future__ import annotations

from typing import Literal

StemStride = Literal[1, 2, 4]
LEAST_GRID = 48
"""A stem of stride 2 or 4 leaves at least so many pixels a side, where nobody says its stride."""
LEAST_SIDE = 4
"""The spaces stages and mobile halve no maps to fewer pixels a side."""


def stem_stride(image_size: int | None) -> StemStride:
    """Returns the largest stride that leaves `LEAST_GRID` pixels a side, so that blocks work on maps like those of
    small images, whatever the size; 1 where that is smaller or not known."""
    strides: tuple[StemStride, ...] = (4, 2)
    return next((stride for stride in strides if (image_size or 0) >= stride * LEAST_GRID), 1)


def after_stem(stride: int, image_size: int | None) -> int | None:
    """Returns the side of the maps after a stem of a stride; None where the size of the images is not known."""
    return -(-image_size // stride) if image_size else None


def poolings(side: int | None, most: int) -> int:
    """Returns how many halvings of maps of this side leave `LEAST_SIDE` pixels a side, `most` of them at most. A
    side that is not known is large."""
    if not side:
        return most
    found = 0
    while found < most and -(-side // 2) >= LEAST_SIDE:
        side, found = -(-side // 2), found + 1
    return found
