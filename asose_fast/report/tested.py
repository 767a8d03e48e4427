"""A report shows which classes a network confuses on the test images, and its worst mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from asose_fast.engine.tested.record import OfClass, Tested
from asose_fast.report import confusion, intervals, svg
from asose_fast.report.charts import Figure

OPEN, ROWS, PAIRS = 20, 250, 10
"""The table of the classes shows so many at once, and has so many in all; this many confused pairs are named."""


def figures(tested: Tested | None) -> list[Figure]:
    """Draws the confusion matrix, unless there are too many classes to see anything."""
    if tested is None or len(tested.classes) > confusion.MOST or not tested.confusion:
        return []
    title = "Confusion matrix"
    pairs = _pairs(tested)
    said = "; ".join(f"{label} taken for {predicted}: {images}" for label, predicted, images, _ in pairs)
    draw = confusion.draw(
        tested.classes, tested.confusion, title=title, description=said or "Every test image is recognised."
    )
    caption = "Rows are the true classes, columns the predicted ones. A stronger colour is a larger share of its row."
    return [Figure("confusion", title, caption, draw)]


def shown(tested: Tested | None) -> dict[str, Any] | None:
    """Returns the section of the test images; None where nothing was recorded."""
    if tested is None:
        return None
    ordered = sorted(tested.per_class, key=lambda c: (math.isnan(c.accuracy), c.accuracy, -c.images))[:ROWS]
    return {
        "rows": [_row(of_class) for of_class in ordered],
        "open": OPEN,
        "total": len(tested.classes),
        "pairs": _pairs(tested),
        "mistakes": [
            {
                "picture": mistake.picture,
                "name": mistake.name,
                "label": tested.classes[mistake.label],
                "predicted": tested.classes[mistake.predicted],
                "probability": f"{100 * mistake.probability:.0f} %",
            }
            for mistake in tested.mistakes
        ],
    }


def _row(of_class: OfClass) -> Sequence[str]:
    """Words the figures of a class, its name first."""
    accuracy = svg.NONE
    if of_class.images:
        accuracy = f"{svg.percent(of_class.accuracy)} {intervals.of_share(of_class.accuracy, of_class.images).words}"
    return (
        of_class.name,
        f"{of_class.images:,}",
        accuracy,
        _percent(of_class.precision),
        _percent(of_class.f1),
        f"{of_class.taken_for[0]} ({of_class.taken_for[1]:,})" if of_class.taken_for else svg.NONE,
    )


def _percent(share: float) -> str:
    return svg.NONE if math.isnan(share) else svg.percent(share)


def _pairs(tested: Tested) -> list[tuple[str, str, str, str]]:
    """Returns the most frequent confusions: the true class, the predicted one, and how many images of how many."""
    images = [of_class.images for of_class in tested.per_class]
    wrong = sorted((-count, label, predicted) for label, predicted, count in tested.confusion if label != predicted)
    return [
        (tested.classes[label], tested.classes[predicted], f"{-count:,}", f"{images[label]:,}")
        for count, label, predicted in wrong[:PAIRS]
    ]
