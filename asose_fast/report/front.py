"""A report shows the front of a run: several networks of one search, by cost and accuracy (docs/front.md)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from asose_fast.engine.comparison.trained import Trained
from asose_fast.engine.front.record import UNITS, Front
from asose_fast.report import charts, costs, intervals, svg
from asose_fast.report.charts import AXIS, LEFT, RIGHT, Figure

HEIGHT, TOP = 220.0, 12.0


def figures(front: Front | None) -> list[Figure]:
    """Returns the chart of a front with two networks or more."""
    if front is None or len(front.networks) < 2:
        return []
    unit = UNITS[front.by][1]
    caption = (
        f"Test accuracy with its 95 % interval over {unit}. Networks on the line are the front: no other one is as "
        "good for less. The best of several on the same test images looks a little better than it is."
    )
    return [Figure("front", f"Accuracy over {unit}", caption, _drawn(front))]


def shown(front: Front | None) -> dict[str, Any] | None:
    """Returns the section of a front; None where there is none."""
    if front is None:
        return None
    missing, best = front.missing, front.best
    return {
        "sentences": front.sentences,
        "missing": f"{missing} of {len(front.specs)} networks are not trained yet" if missing else "",
        "caption": f"Each was trained from scratch on {front.images:,} images for {front.epochs:,} epochs, with the "
        f"same settings, and measured on {front.test_images:,} test images. {costs.said_of_latency(front.target)}",
        "heads": costs.HEADS,
        "rows": [
            (
                one.name,
                costs.worded(one, front.test_images),
                "yes" if one in best else "",
                ", ".join(one.operations),
            )
            for one in front.networks
        ],
    }


def _drawn(front: Front) -> Callable[[float], Markup]:
    """Draws every network as a point over its cost, on a logarithmic axis, and a line through those of the front."""
    unit, name = UNITS[front.by]
    costs = [math.log(getattr(one, front.by) / unit) for one in front.networks]
    ranges = [intervals.of_share(one.test_accuracy, front.test_images) for one in front.networks]
    low, high = min(costs), max(costs)
    margin = 0.06 * (high - low) or 0.1
    bottom, top = min(each.low for each in ranges), max(each.high for each in ranges)
    described = ", ".join(f"{one.name} {svg.percent(one.test_accuracy)} at {front.cost(one)}" for one in front.best)

    def draw(width: float) -> Markup:
        def x(point: Trained) -> float:
            place = math.log(getattr(point, front.by) / unit)
            return LEFT + (place - low + margin) / (high - low + 2 * margin) * (width - LEFT - RIGHT)

        def y(value: float) -> float:
            return TOP + HEIGHT * (1 - (value - bottom) / (top - bottom))

        parts = []
        for tick in svg.ticks(bottom, top, 5):
            parts.append(svg.tag("path", d=f"M{LEFT:.0f} {y(tick):.1f}H{width - RIGHT:.0f}", class_="hair"))
            parts.append(svg.text(LEFT - 7, y(tick) + 4, charts.share(tick), anchor="end"))
        for one, span in zip(front.networks, ranges, strict=True):
            parts.append(svg.tag("path", d=f"M{x(one):.1f} {y(span.low):.1f}V{y(span.high):.1f}", class_="hair"))
        line = "L".join(f"{x(one):.1f} {y(one.test_accuracy):.1f}" for one in front.best)
        parts.append(svg.tag("path", d=f"M{line}", class_="line", stroke="var(--line-0)"))
        for one in front.networks:
            told = svg.tag("title", f"{one.name}: {svg.percent(one.test_accuracy)}, {front.cost(one)}")
            fill = f"var(--line-{0 if one in front.best else 1})"
            parts.append(svg.tag("circle", told, cx=x(one), cy=y(one.test_accuracy), r=4, fill=fill))
            number = one.name.rpartition("-")[2]
            parts.append(svg.text(x(one) + 7, y(one.test_accuracy) - 5, number))
        ends = (min(front.networks, key=x), max(front.networks, key=x))
        for end, anchor in zip(ends, ("start", "end"), strict=True):
            parts.append(svg.text(x(end), TOP + HEIGHT + 16, front.cost(end), anchor=anchor))
        return svg.figure(width, TOP + HEIGHT + AXIS, f"Accuracy over {name}", described, parts)

    return draw
