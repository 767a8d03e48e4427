"""These charts show lines, heat maps, leading operations and their shares over epochs, each drawn for a given width."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from markupsafe import Markup

from asose_fast.engine.phases import Phase
from asose_fast.report import svg
from asose_fast.report.palette import LEVELS, LINES, in_order, level, operation_colours

LEFT, RIGHT, PHASES, AXIS = 44.0, 14.0, 16.0, 22.0
"""These are the margins of a chart. Those above and below hold the names of the phases and the epochs."""
COLUMNS = 400
"""So many epochs are shown one by one. Of more, a column of a heat map takes the last of several, and a curve the
highest and the lowest."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a report has `draw`, which makes it for a width in pixels."""

    name: str
    """Its file has this name."""
    title: str
    caption: str
    draw: Callable[[float], Markup]


class Line(NamedTuple):
    """A curve has a value for each of the epochs, NaN where there is none."""

    label: str
    values: Sequence[float]
    faint: bool = False
    """A faint curve stands behind the others, thin and grey."""


@dataclasses.dataclass(frozen=True)
class Time:
    """The charts of a run share this horizontal axis."""

    epochs: Sequence[int]
    """These epochs have records, in rising order."""
    total: int
    """The whole run has so many epochs."""
    phases: Sequence[Phase] = ()
    events: Sequence[tuple[int, str]] = ()
    """At the ends of these epochs something happened, and the text says what."""

    def x(self, place: float, width: float) -> float:
        """Returns the x of a place from 0, the beginning, to `total`. Epoch e takes e - 1 to e."""
        return LEFT + place / max(1, self.total) * (width - LEFT - RIGHT)

    def columns(self) -> Iterator[tuple[int, int, int]]:
        """Yields the index of each epoch, and where the column that shows it begins and ends."""
        every = max(1, math.ceil(len(self.epochs) / COLUMNS))
        last = self.epochs[0] - 1 if self.epochs else 0
        for i in range(min(every, len(self.epochs)) - 1, len(self.epochs), every):
            yield i, self.epochs[i] - 1 if every == 1 else last, self.epochs[i]
            last = self.epochs[i]

    def backdrop(self, width: float, top: float, height: float, *, bands: bool = True) -> Iterator[Markup]:
        """Draws bands and names of the phases, the axis below, and what happened."""
        for i, phase in enumerate(self.phases):
            x, end = self.x(phase.first, width), self.x(phase.end, width)
            if i % 2 == 0 and bands:
                yield svg.tag("rect", x=x, y=top, width=end - x, height=height, class_="band")
            if svg.text_width(phase.name) < end - x:
                yield svg.text((x + end) / 2, top - 5, phase.name, anchor="middle")
        bottom = top + height
        for tick in svg.ticks(0, self.total, 5 if width < 500 else 10):
            if tick == round(tick):
                yield svg.text(self.x(tick, width), bottom + 15, f"{tick:,.0f}", anchor="middle")
        for epoch, what in self.events:
            x = self.x(epoch, width)
            yield svg.tag("path", d=f"M{x:.1f} {top:.1f}v{height:.1f}", class_="hair", stroke_dasharray="2 3")
            mark = f"M{x - 3.5:.1f} {bottom + 6:.1f}l3.5 -5.5l3.5 5.5z"
            yield svg.tag("path", svg.tag("title", f"after epoch {epoch}: {what}"), d=mark, class_="event")


def line_chart(
    time: Time,
    lines: Sequence[Line],
    *,
    title: str,
    description: str,
    show: Callable[[float], str] = svg.short,
    bounds: tuple[float | None, float | None] = (None, None),
    height: float = 170,
) -> Callable[[float], Markup]:
    """Draws curves over epochs, named above with their last values. `bounds` are the ends of the vertical axis, where
    fixed."""
    finite = [value for line in lines for value in line.values if math.isfinite(value)]
    lowest = bounds[0] if bounds[0] is not None else min(finite, default=0.0)
    highest = bounds[1] if bounds[1] is not None else max(finite, default=1.0)
    if not highest > lowest:
        lowest, highest = lowest - 0.5 * (abs(lowest) or 1), highest + 0.5 * (abs(highest) or 1)
    if bounds[0] is None:
        lowest = lowest if lowest < 0 else max(0.0, lowest - 0.05 * (highest - lowest))
    if bounds[1] is None:
        highest += 0.05 * (highest - lowest)

    def draw(width: float) -> Markup:
        names = list(_legend(lines, width, show))
        top = PHASES + 18 * (1 + max((row for row, _ in names), default=0)) + 2

        def y(value: float) -> float:
            return top + height * (1 - (value - lowest) / (highest - lowest))

        parts = list(time.backdrop(width, top, height))
        for tick in svg.ticks(lowest, highest, 4):
            parts.append(svg.tag("path", d=f"M{LEFT:.0f} {y(tick):.1f}H{width - RIGHT:.0f}", class_="hair"))
            parts.append(svg.text(LEFT - 7, y(tick) + 4, show(tick), anchor="end"))
        for i, line in enumerate(lines):
            points = [(time.x(e - 0.5, width), v) for e, v in zip(time.epochs, line.values, strict=True)]
            d = _curve([(x, y(v) if math.isfinite(v) else v) for x, v in _thinned(points)])
            parts.append(_stroked(d, line, i))
        parts += [mark for _, mark in names]
        return svg.figure(width, top + height + AXIS, title, description, parts)

    return draw


def _stroked(d: str, line: Line, i: int) -> Markup:
    """Draws curve `i`. The second is dashed as well as of another colour, and so are those whose colours come again."""
    if line.faint:
        return svg.tag("path", d=d, class_="faint")
    dash = "5 3" if i == 1 or i // LINES % 2 else None
    return svg.tag("path", d=d, class_="line", stroke=f"var(--line-{i % LINES})", stroke_dasharray=dash)


def _legend(lines: Sequence[Line], width: float, show: Callable[[float], str]) -> Iterator[tuple[int, Markup]]:
    x, row = LEFT, 0
    for i, line in enumerate(lines):
        last = next((value for value in reversed(line.values) if math.isfinite(value)), math.nan)
        label = _cut(line.label, 40) + (f" {show(last)}" if math.isfinite(last) else "")
        if x > LEFT and x + 26 + svg.text_width(label) > width:
            x, row = LEFT, row + 1
        y = 11.0 + 18 * row
        yield row, _stroked(f"M{x:.1f} {y - 4:.1f}h18", line, i)
        yield row, svg.text(x + 24, y, label, strong=True)
        x += 24 + svg.text_width(label) + 22


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of too many points, keeps the lowest and the highest of each few."""
    many = math.ceil(len(points) / COLUMNS)
    if many < 3:
        return list(points)
    kept = []
    for start in range(0, len(points), many):
        finite = [point for point in points[start : start + many] if math.isfinite(point[1])]
        ends = {min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])} if finite else {points[start]}
        kept += sorted(ends)
    return kept


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """Returns a path that leaves gaps open. A point between two gaps is a dot."""
    d, pen = "", False
    for i, (x, y) in enumerate(points):
        if not math.isfinite(y):
            pen = False
            continue
        alone = not pen and (i + 1 == len(points) or not math.isfinite(points[i + 1][1]))
        d += f"{'L' if pen else 'M'}{svg.compact(x)} {svg.compact(y)}" + ("h.1" if alone else "")
        pen = True
    return d


def heat_map(
    time: Time,
    rows: Sequence[Sequence[float | None]],
    *,
    title: str,
    description: str,
    bounds: tuple[float, float],
    show: Callable[[float], str] = svg.short,
) -> Callable[[float], Markup]:
    """Draws a row a layer, the first on top, and a column an epoch. Darker (in the dark: lighter) is more."""
    cells = [[None if v is None or not math.isfinite(v) else level(v, *bounds) for v in row] for row in rows]
    colours = [f"var(--q{i})" for i in range(LEVELS)]

    def draw(width: float) -> Markup:
        bar, step = 96.0, 96.0 / LEVELS
        x = LEFT + svg.text_width(show(bounds[0])) + 6
        legend = [svg.text(LEFT, 11, show(bounds[0])), svg.text(x + bar + 6, 11, show(bounds[1]))]
        legend += [
            svg.tag("rect", x=x + step * i, y=2.0, width=step + 0.3, height=10.0, fill=colour)
            for i, colour in enumerate(colours)
        ]
        return _table(time, cells, colours, width, 20, legend, title, description)

    return draw


def operation_map(
    time: Time, rows: Sequence[Sequence[str | None]], *, title: str, description: str
) -> Callable[[float], Markup]:
    """Draws a map like a heat map, with a colour for each operation."""
    names = in_order(name for row in rows for name in row if name is not None)
    number = {name: i for i, name in enumerate(names)}
    colours = list(operation_colours(names).values())
    cells = [[None if name is None else number[name] for name in row] for row in rows]

    def draw(width: float) -> Markup:
        legend = list(_swatches(names, width))
        used = 18 * (1 + max((row for row, _ in legend), default=0))
        return _table(time, cells, colours, width, used, [mark for _, mark in legend], title, description)

    return draw


def _swatches(names: Sequence[str], width: float) -> Iterator[tuple[int, Markup]]:
    x, row = LEFT, 0
    for name, colour in operation_colours(names).items():
        label = _cut(name, 30)
        if x > LEFT and x + 16 + svg.text_width(label) > width:
            x, row = LEFT, row + 1
        y = 18.0 * row
        yield row, svg.tag("rect", x=x, y=y + 2, width=10.0, height=10.0, rx=1.5, fill=colour)
        yield row, svg.text(x + 15, y + 11, label)
        x += 15 + svg.text_width(label) + 14


def _table(
    time: Time,
    cells: Sequence[Sequence[int | None]],
    colours: Sequence[str],
    width: float,
    used: float,
    legend: Sequence[Markup],
    title: str,
    description: str,
) -> Markup:
    """Draws the cells of a row for each layer, in units of an epoch and a layer, with a stroke for each run of one
    colour."""
    size = max(4.0, min(18.0, 240 / max(1, len(cells))))
    top, height = used + PHASES, size * len(cells)
    strokes = _strokes(time, cells, len(colours))
    unit = time.x(1, width) - time.x(0, width)
    painted = [svg.tag("path", d=d, stroke=colour) for d, colour in zip(strokes, colours, strict=True) if d]
    parts = [*legend, *time.backdrop(width, top, height, bands=False)]
    parts.append(
        svg.tag("g", *painted, class_="cells", transform=f"translate({LEFT} {top:.2f}) scale({unit:.6g} {size:.6g})")
    )
    every = math.ceil(11 / size)
    parts += [
        svg.text(LEFT - 7, top + size * (i + 0.5) + 4, str(i + 1), anchor="end") for i in range(0, len(cells), every)
    ]
    parts += [
        svg.tag("path", d=f"M{LEFT:.0f} {top + size * i:.1f}H{width - RIGHT:.0f}", stroke="var(--paper)")
        for i in range(1, len(cells))
    ]
    return svg.figure(width, top + height + AXIS, title, description, parts)


def _strokes(time: Time, cells: Sequence[Sequence[int | None]], colours: int) -> list[str]:
    """Returns, for each colour, the path of its runs. A run goes on over epochs without a gap."""
    columns = list(time.columns())
    paths = [""] * colours
    for y, row in enumerate(cells):
        open_run: tuple[int, int, int] | None = None
        for column, start, end in columns:
            colour = row[column]
            if open_run and colour == open_run[0] and start == open_run[2]:
                open_run = (open_run[0], open_run[1], end)
                continue
            if open_run:
                paths[open_run[0]] += _run(y, *open_run[1:])
            open_run = None if colour is None else (colour, start, end)
        if open_run:
            paths[open_run[0]] += _run(y, *open_run[1:])
    return paths


def _run(y: int, start: int, end: int) -> str:
    return f"M{start} {y}.5h{end - start}"


def share_chart(
    time: Time, paths: Sequence[Sequence[str]], *, title: str, description: str, height: float = 110
) -> Callable[[float], Markup]:
    """Draws the share of the layers that each operation leads, stacked, epoch by epoch."""
    names = in_order(name for path in paths for name in path)
    colours = operation_colours(names)

    def draw(width: float) -> Markup:
        legend = list(_swatches(names, width))
        top = PHASES + 18.0 * (1 + max((row for row, _ in legend), default=0))
        parts = [mark for _, mark in legend] + list(time.backdrop(width, top, height))
        columns = list(time.columns())
        below = [0.0] * len(paths)
        for name in names:
            above = [
                base + (path.count(name) / len(path) if path else 0.0) for base, path in zip(below, paths, strict=True)
            ]
            d = ""
            for i, start, stop in columns:
                if above[i] > below[i]:
                    x, end = time.x(start, width), time.x(stop, width)
                    a, b = top + height * (1 - above[i]), top + height * (1 - below[i])
                    d += f"M{x:.1f} {a:.1f}H{end:.1f}V{b:.1f}H{x:.1f}z"
            parts.append(svg.tag("path", d=d, fill=colours[name], shape_rendering="crispEdges"))
            below = above
        parts += [
            svg.text(LEFT - 7, top + height * (1 - part) + 4, share(part), anchor="end") for part in (0.0, 0.5, 1.0)
        ]
        return svg.figure(width, top + height + AXIS, title, description, parts)

    return draw


def phase_strip(spans: Sequence[tuple[str, float]], *, title: str, description: str) -> Callable[[float], Markup]:
    """Draws the phases one after the other, as long as they took. `spans` are names and seconds."""
    total = sum(seconds for _, seconds in spans) or 1.0

    def draw(width: float) -> Markup:
        parts, x = [], 0.0
        for i, (name, seconds) in enumerate(spans):
            length = width * seconds / total
            colour = f"var(--q{(3, 6, 9, 12)[i % 4]})"
            told = svg.tag("title", f"{name}: {seconds:.1f} s")
            parts.append(svg.tag("rect", told, x=x, y=18.0, width=max(0.0, length - 1), height=10.0, fill=colour))
            for label in (f"{name} {duration(seconds)}", name):
                if svg.text_width(label) + 10 < length:
                    parts.append(svg.text(x, 11, label))
                    break
            x += length
        return svg.figure(width, 30, title, description, parts)

    return draw


def matrix(
    columns: Sequence[str], rows: Sequence[Sequence[float]], *, title: str, description: str
) -> Callable[[float], Markup]:
    """Draws probabilities in percent, coloured, with a row a layer and a column a candidate."""

    def draw(width: float) -> Markup:
        top, size = 92.0, 20.0
        wide = min(64.0, (width - LEFT - RIGHT - 20) / max(1, len(columns)))
        parts = []
        for k, name in enumerate(columns):
            x = LEFT + wide * (k + 0.5)
            turned = f"rotate(-50 {x:.1f} {top - 8:.1f})"
            parts.append(svg.tag("text", _cut(name, 16), x=x, y=top - 8, transform=turned))
        for layer, row in enumerate(rows):
            y = top + size * layer
            parts.append(svg.text(LEFT - 7, y + 14, str(layer + 1), anchor="end"))
            for k, value in enumerate(row):
                if not math.isfinite(value):
                    continue
                q, x = level(value, 0, 1), LEFT + wide * k
                parts.append(svg.tag("rect", x=x, y=y, width=wide - 1, height=size - 1, fill=f"var(--q{q})"))
                shown = f"{100 * value:.0f}"
                parts.append(
                    svg.tag("text", shown, x=x + wide / 2, y=y + 14, text_anchor="middle", style=f"fill:var(--t{q})")
                )
        return svg.figure(width, top + size * len(rows) + 4, title, description, parts)

    return draw


def share(value: float) -> str:
    """Words 0.123 as 12.3 %, and 0.5 as 50 %."""
    return f"{100 * value:.1f}".removesuffix(".0") + " %"


def duration(seconds: float) -> str:
    """Words seconds as people say them."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _cut(label: str, longest: int) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"
