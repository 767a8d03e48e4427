"""Memory for arrays that are not needed all the time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """An array, and the first and the last moment at which it is needed."""

    size: int
    first: int
    last: int


def placed(spans: Sequence[Span], line: int) -> tuple[list[int], int]:
    """Where arrays begin, each at a multiple of `line`, so that no two overlap that are needed at one moment, and where
    the last of them ends. The largest come first, each as low as it may."""
    starts, taken = [0] * len(spans), list[tuple[Span, int, int]]()
    for number in sorted(range(len(spans)), key=lambda i: -spans[i].size):
        span, start = spans[number], 0
        size = -(-span.size // line) * line
        for other, low, high in sorted(taken, key=lambda one: one[1]):
            together = other.first <= span.last and span.first <= other.last
            if together and start < high and low < start + size:
                start = high
        starts[number] = start
        taken.append((span, start, start + size))
    return starts, max((high for *_, high in taken), default=0)
