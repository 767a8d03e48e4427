"""A confusion matrix is drawn with counts in its cells where they have room, and else as colours alone."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from markupsafe import Markup

from asose_fast.report import svg
from asose_fast.report.palette import LEVELS, level

MOST = 100
"""Of more classes no matrix is drawn."""
LARGEST = 44.0
"""A cell has sides of so many pixels at most."""
LINE = 13.0
"""A line of text needs so many pixels."""
SLANT = math.radians(50)
"""The names above the columns stand so steep."""


def draw(
    classes: Sequence[str], counts: Sequence[tuple[int, int, int]], *, title: str, description: str
) -> Callable[[float], Markup]:
    """Draws a row for each true class and a column for each predicted one.

    `counts` are (label, predicted, images). A colour shows the root of the share of its row, so that a few mistakes
    among many images are seen.
    """
    rows: Counter[int] = Counter()
    for label, _, count in counts:
        rows[label] += count
    cells = [
        (label, predicted, count, level(math.sqrt(count / rows[label]), 0, 1))
        for label, predicted, count in counts
        if count
    ]

    def drawn(width: float) -> Markup:
        longest = 18 if width > 500 else 11
        names = [_cut(name, longest) for name in classes]
        long = max(map(svg.text_width, names))
        left, top = long + 10, long * math.sin(SLANT) + 18
        right = long * math.cos(SLANT)  # where the name above the last column ends
        size = min(LARGEST, (width - left - right) / len(classes))
        every, every_column = (math.ceil(LINE / space) for space in (size, size * math.sin(SLANT)))
        parts = [
            svg.text(left - 7, top + size * (i + 0.5) + 4, name, anchor="end")
            for i, name in enumerate(names)
            if i % every == 0
        ]
        parts += [
            _slanted(left + size * (i + 0.5) + 3, top - 6, name)
            for i, name in enumerate(names)
            if i % every_column == 0
        ]
        with_counts = all(svg.text_width(f"{count}") + 3 <= size for *_, count, _ in cells)
        parts += _numbered(cells, classes, rows, left, top, size) if with_counts else _coloured(cells, left, top, size)
        side = size * len(classes)
        parts.append(svg.tag("path", d=f"M{left:.1f} {top:.1f}h{side:.1f}v{side:.1f}h-{side:.1f}z", class_="hair"))
        return svg.figure(width, top + side + 4, title, description, parts)

    return drawn


def _numbered(
    cells: Sequence[tuple[int, int, int, int]],
    classes: Sequence[str],
    rows: Counter[int],
    left: float,
    top: float,
    size: float,
) -> list[Markup]:
    parts = []
    for label, predicted, count, q in cells:
        x, y = left + size * predicted, top + size * label
        told = "recognised" if label == predicted else f"taken for {classes[predicted]}"
        name = svg.tag("title", f"{classes[label]} {told}: {count:,} of {rows[label]:,}")
        parts.append(svg.tag("rect", name, x=x + 0.5, y=y + 0.5, width=size - 1, height=size - 1, fill=f"var(--q{q})"))
        parts.append(
            svg.tag(
                "text", f"{count}", x=x + size / 2, y=y + size / 2 + 4, text_anchor="middle", style=f"fill:var(--t{q})"
            )
        )
    return parts


def _coloured(cells: Sequence[tuple[int, int, int, int]], left: float, top: float, size: float) -> list[Markup]:
    """Draws a stroke for each cell, in units of a cell, all of one colour in one path."""
    paths: defaultdict[int, str] = defaultdict(str)
    for label, predicted, _, q in cells:
        paths[q] += f"M{predicted} {label}.5h1"
    painted = [svg.tag("path", d=paths[q], stroke=f"var(--q{q})") for q in range(LEVELS) if q in paths]
    placed = f"translate({left:.2f} {top:.2f}) scale({size:.6g})"
    return [svg.tag("g", *painted, class_="cells", transform=placed)]


def _slanted(x: float, y: float, name: str) -> Markup:
    turned = f"rotate(-{math.degrees(SLANT):.0f} {x:.1f} {y:.1f})"
    return svg.tag("text", name, x=x, y=y, transform=turned)


def _cut(name: str, longest: int) -> str:
    """Leaves out the middle of a long name, since both ends may be what tells it from others."""
    end = longest // 3
    return name if len(name) <= longest else f"{name[: longest - end - 1]}…{name[-end:]}"
