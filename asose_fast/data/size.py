"""The sizes of images decide to which side they are resized, where nobody says it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

KEPT = 256
"""Images of one square size up to this stay as they are."""
LARGEST = 128
"""No larger side than this is chosen, so that a search on a CPU stays affordable."""


def chosen_side(sizes: Sequence[tuple[int, int]]) -> int | None:
    """Returns the side to which images of these sizes (width, height) are resized; None: they stay as they are.

    They stay where all are squares of one size up to `KEPT`. Otherwise the side is the median of their shorter sides,
    or `LARGEST` where that is less. From 32 pixels on it is rounded down to a multiple of 32, and from 8 on to one of
    8, so that halvings of the image leave no odd rest.
    """
    width, height = sizes[0]
    if width == height <= KEPT and len(set(sizes)) == 1:
        return None
    side = min(LARGEST, _median(sizes))
    return side - side % (32 if side >= 32 else 8 if side >= 8 else 1)


def resizing(sizes: Sequence[tuple[int, int]], side: int) -> str:
    """Says what is done to images of these sizes, and why."""
    shorter = [min(size) for size in sizes]
    there = str(min(shorter)) if min(shorter) == max(shorter) else f"{min(shorter)} to {max(shorter)}"
    return (
        f"images of {there} pixels at the shorter side, with a median of {_median(sizes)}, are resized to "
        f"{side}x{side} (image_size takes another size)"
    )


def _median(sizes: Sequence[tuple[int, int]]) -> int:
    return statistics.median_low(min(size) for size in sizes)
