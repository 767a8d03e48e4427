"""The bracket of the finals: who was trained for how long, with which loss, and who stayed."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NamedTuple

from asose_fast.report import svg
from asose_fast.report.epochs import number
from asose_fast.report.run import Run


class Row(NamedTuple):
    """A finalist, with a cell for each rung, the winner first."""

    operations: str
    parameters: str
    cells: list[str]
    """The mean training loss in a rung, marked where the finalist stays; nothing after it has gone."""


class Bracket(NamedTuple):
    """The rungs and the finalists of a run."""

    rungs: list[str]
    rows: list[Row]


def bracket(run: Run) -> Bracket | None:
    """Returns the bracket, as far as the records have it; None where there were no finals."""
    rungs = [rung for epoch in run.epochs for rung in epoch.finals if isinstance(rung.get("finalists"), list)]
    if not rungs:
        return None
    courses: dict[tuple[str, int], list[tuple[int, dict[str, Any]]]] = {}
    for place, rung in enumerate(rungs):
        seen = Counter[str]()
        for finalist in filter(lambda found: isinstance(found, dict), rung["finalists"]):
            operations = _operations(finalist)
            courses.setdefault((operations, seen[operations]), []).append((place, finalist))
            seen[operations] += 1  # of networks of cells, two may have equal operations on other edges
    rows = []
    for (operations, _), course in sorted(courses.items(), key=lambda item: _merit(*item[1][-1])):
        cells = [svg.NONE] * len(rungs)
        for place, finalist in course:
            loss = number(finalist.get("loss"))
            cells[place] = (f"{loss:.3f}" if math.isfinite(loss) else "not finite") + " ✓" * _stays(finalist)
        rows.append(Row(operations, _count(course[-1][1].get("parameters")), cells))
    return Bracket([f"after {_count(rung.get('steps'))} steps each" for rung in rungs], rows)


def _operations(finalist: dict[str, Any]) -> str:
    found = finalist.get("operations")
    return ", ".join(map(str, found)) if isinstance(found, list) and found else svg.NONE


def _stays(finalist: dict[str, Any]) -> bool:
    return finalist.get("stays") is True


def _merit(place: int, finalist: dict[str, Any]) -> tuple[float, ...]:
    """Orders finalists: who came to a later rung is first, and then who stayed in it, and had the smaller loss."""
    loss = number(finalist.get("loss"))
    return -place, -float(_stays(finalist)), loss if math.isfinite(loss) else math.inf


def _count(value: Any) -> str:
    found = number(value)
    return f"{found:,.0f}" if math.isfinite(found) else svg.NONE
