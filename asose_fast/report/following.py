"""What can be done with a run next, as commands."""

from __future__ import annotations

import shlex

from asose_fast.program import spelled
from asose_fast.report.run import Run


def following(run: Run) -> list[tuple[str, str]]:
    """Returns commands, each with what it does, for the folder as it was named when the report was written."""
    if not run.place or run.state == "running":
        return []
    place = shlex.quote(run.place)
    if run.kind == "library":
        gives = "in Python, gives the network; `model` is the one that was searched"
        return [(f"asose_fast.load({run.place!r}, model)", gives)] if run.state == "finished" else []
    if run.state == "unfinished":
        return [(f"{spelled('train')} --resume {place}", "goes on from the last checkpoint")] * (run.kind == "search")
    export = (
        f"{spelled('export')} {place} --format module",
        "writes the network as a Python file that needs torch alone",
    )
    predict = (f"{spelled('predict')} {place} IMAGES", "says the classes of images, files or folders")
    if run.kind == "training":
        return [predict, export]
    return [
        predict,
        export,
        (f"{spelled('retrain')} {place}", "trains the architecture from scratch"),
        (
            f"{spelled('derive')} {place} --max_parameters N",
            "chooses another network of the same search, within a bound",
        ),
        (f"{spelled('front')} {place}", "trains several networks of the same search, smaller and faster ones"),
        (f"{spelled('report')} {place} OTHER", "compares the run with another"),
    ]
