"""Predictions are shown as a table, and written as CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator

from rich.table import Table
from rich.text import Text

from asose_fast.predict.predictions import Predictions

NEXT = 2
"""The console shows so many classes besides the most probable one."""
NEGLIGIBLE = 0.0005
"""A class below this probability, 0.0 % to a digit, is not shown among them."""


def shown(found: Predictions, most: int | None) -> Table:
    """Returns a table of the first `most` images, or of all. The folder that they share stands above it."""
    count = len(found) if most is None else min(most, len(found))
    labelled = found.labelled > 0
    above = os.path.commonpath([os.path.dirname(path) for path in found.paths])
    table = Table(
        title=Text(above) if above else None,
        caption=None if count == len(found) else f"the first {count} of {len(found):,} images",
    )
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("next", overflow="fold")
    if labelled:
        table.add_column("folder", overflow="fold")
    for prediction, ranked, _ in zip(found, found.top(1 + NEXT), range(count), strict=False):
        others = ", ".join(f"{name} {value:.1%}" for name, value in ranked[1:] if value >= NEGLIGIBLE)
        path = os.path.relpath(prediction.path, above) if above else prediction.path
        cells = [Text(path), Text(prediction.name), Text(f"{prediction.probability:.1%}"), Text(others)]
        if labelled:
            right = prediction.label in (None, prediction.name)
            cells.append(Text(prediction.label or "", style="" if right else "red"))
        table.add_row(*cells)
    return table


def encode_csv(found: Predictions, top: int | None) -> str:
    """Returns a line for each image: path, class, probability, label (empty where there is none), and the probability
    of each class. With `top` there are the most probable classes instead, each with its probability."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    head = ["path", "class", "probability", "label"]
    if top is None:
        writer.writerow([*head, *(f"p({name})" for name in found.classes)])
        rest: Iterator[list[object]] = (list(row) for row in found.probabilities.tolist())
    else:
        ranked = found.top(top)
        others = range(2, len(ranked[0]) + 1)
        writer.writerow([*head, *(f"{what}_{k}" for k in others for what in ("class", "probability"))])
        rest = ([cell for pair in row[1:] for cell in pair] for row in ranked)
    for prediction, cells in zip(found, rest, strict=True):
        writer.writerow([prediction.path, prediction.name, prediction.probability, prediction.label or "", *cells])
    return file.getvalue()


def encode_json(found: Predictions, top: int | None) -> str:
    """Returns the classes, the accuracy (null without labels), and for each image path, class, probability, label
    and the probabilities by class, the highest first: those of all, or of the `top` most probable."""
    ranked = found.top(len(found.classes) if top is None else top)
    images = [
        {
            "path": prediction.path,
            "class": prediction.name,
            "probability": prediction.probability,
            "label": prediction.label,
            "probabilities": dict(of_image),
        }
        for prediction, of_image in zip(found, ranked, strict=True)
    ]
    return json.dumps({"classes": found.classes, "accuracy": found.accuracy, "images": images}, indent=1) + "\n"


ENCODE: dict[str, Callable[[Predictions, int | None], str]] = {".csv": encode_csv, ".json": encode_json}
"""How a file is written goes by the end of its name."""
