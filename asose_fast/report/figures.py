"""A run has figures, and so have several runs side by side. They become files where asked for."""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from asose_fast.config import CELL_CANDIDATES
from asose_fast.engine import deadline
from asose_fast.engine.growth.control import describe
from asose_fast.engine.health import guard
from asose_fast.report import charts, drawing, front, palette, svg, tested
from asose_fast.report.charts import Figure, Line, Time
from asose_fast.report.lineage import rows
from asose_fast.report.run import Kind, Run, counted
from asose_fast.store.checkpoint import write_atomically

WIDE, NARROW = 860.0, 360.0
"""Figures are drawn for these widths, in pixels."""


_OF_WHAT: dict[Kind, str] = {
    "search": "Training: of the sampled paths on the images that they train on. Validation: of the network of the most "
    "probable operations.",
    "library": "Training: of the sampled paths on the batches that they train on. Validation: of the network of the "
    "most probable candidates.",
    "training": "Training: on the images as they are trained on, changed and mixed. Validation: on images kept out.",
}


def events(run: Run) -> list[tuple[int, str]]:
    """Returns the epochs after which the network grew or was turned back, or the run was planned again, and what
    happened."""
    found = []
    for epoch in run.epochs:
        told = _told(describe, epoch.growth if epoch.grown else {}) + _told(guard.describe, epoch.guard)
        told += _told(_longer, epoch.lengthened) + _told(deadline.describe, epoch.planned)
        if told:
            found.append((epoch.epoch, "; ".join(line for line in told if not line.startswith("not grown"))))
    return found


def _longer(lengthened: dict[str, Any]) -> list[str]:
    if not lengthened:
        return []
    return [f"the last phase was made longer, from {lengthened['from']} to {lengthened['to']} epochs"]


def _told(describe: Callable[[dict], list[str]], event: dict) -> list[str]:  # type: ignore[type-arg]
    """Words an event, which may be damaged."""
    try:
        return describe(event)
    except (KeyError, TypeError, AttributeError):
        return [str(event.get("kind", "something")) + " (the record is damaged)"]


def course(run: Run) -> list[Figure]:
    """Draws curves over the epochs."""
    time = _time(run)

    def curve(name: str, title: str, caption: str, lines: Sequence[Line], **options: object) -> Figure:
        draw = charts.line_chart(time, lines, title=title, description=_description(lines), **options)  # type: ignore[arg-type]
        return Figure(name, title, caption, draw)

    def values(name: str) -> list[float]:
        return [epoch.number(name) for epoch in run.epochs]

    metric = run.metric
    train, valid = (
        Line(name, [metric.value(value) for value in values(key)])
        for name, key in (("training", "train_accuracy"), ("validation", "valid_accuracy"))
    )
    share = metric.kind == "accuracy"
    found = [
        curve(
            metric.kind,
            _capital(metric.name),
            ("" if share else f"{_capital(metric.direction)}. ") + _OF_WHAT[run.kind],
            [line for line in (valid, train) if _any(line.values)],
            show=charts.share if share else svg.short,
            bounds=(0.0, 1.0) if share else (None, None),
        ),
        curve(
            "train_loss" if metric.kind == "loss" else "loss",
            "Loss",
            f"{_capital(metric.loss)}, mean of the epoch.",
            [Line("training", values("train_loss"))],
        ),
        curve(
            "temperature",
            "Temperature",
            "Of the Gumbel softmax that samples the architecture.",
            [Line("T", values("temperature"))],
            height=90.0,
            bounds=(0.0, None),
        ),
        curve(
            "throughput",
            "Throughput",
            f"{counted(run).capitalize()} per second, of weight and alpha steps together: of each epoch, and the "
            "median of five in a phase.",
            [Line("median", smoothed(run)), Line("epoch", values("images_per_second"), faint=True)],
            height=110.0,
            bounds=(0.0, None),
        ),
    ]
    if metric.kind == "loss":  # which the curve of what is measured shows already
        found = [figure for figure in found if figure.name != "train_loss"]
    shown = {metric.kind: [*train.values, *valid.values], "throughput": values("images_per_second")}
    return [f for f in found if _any(shown.get(f.name) or values({"loss": "train_loss"}.get(f.name, f.name)))]


def _capital(words: str) -> str:
    """Words begin with a capital, except for the name of a function."""
    return words[:1].upper() + words[1:] if "_" not in words else words


def architecture(run: Run) -> list[Figure]:
    """Draws what the search chooses, layer by layer."""
    time, found = _time(run), []
    part = "edge" if run.config.get("space") in tuple(CELL_CANDIDATES) else "layer"
    paths = [epoch.path for epoch in run.epochs]
    if any(paths):
        title = f"Leading operation of each {part}"
        table = rows(run.epochs, paths)
        described = f"{len(table)} {part}s. At the end: " + ", ".join(next((p for p in reversed(paths) if p), []))
        draw = charts.operation_map(time, table, title=title, description=described)
        found.append(Figure("operations", title, "The most probable candidate at the end of every epoch.", draw))
        title = f"Share of the {part}s that each operation leads"
        draw = charts.share_chart(time, paths, title=title, description=described)
        found.append(Figure("shares", title, "", draw))
    candidates = max((int(e.numbers.get("candidates", 0)) for e in run.epochs), default=0)
    if run.choice:
        candidates = max(candidates, len(run.choice.candidates))
    given = run.config.get("candidates")
    candidates = max(candidates, len(given) if isinstance(given, list) else 0, 2)
    for name, key, title, highest, caption in (
        (
            "entropy",
            "entropy_by_layer",
            f"Entropy of each {part}",
            math.log(candidates),
            f"In nats, of softmax(alpha), up to ln {candidates}: the darker, the less decided.",
        ),
        (
            "max_weight",
            "max_weight_by_layer",
            f"Largest probability of each {part}",
            1.0,
            "Of softmax(alpha): the darker, the more decided.",
        ),
    ):
        values = [epoch.layers.get(key, []) for epoch in run.epochs]
        if any(values):
            last = next(v for v in reversed(values) if v)
            described = f"{len(last)} {part}s. At the end: " + ", ".join(f"{value:.2f}" for value in last)
            draw = charts.heat_map(
                time, rows(run.epochs, values), title=title, description=described, bounds=(0.0, highest)
            )
            caption = caption.replace("the darker", "the stronger the colour")
            found.append(Figure(name, title, caption, draw))
    if run.choice and run.choice.probabilities:
        title = "Probabilities of the candidates"
        described = "; ".join(
            f"{part} {i + 1}: {run.choice.candidates[row.index(max(row))]} {svg.percent(max(row))}"
            for i, row in enumerate(run.choice.probabilities)
        )
        draw = charts.matrix(run.choice.candidates, run.choice.probabilities, title=title, description=described)
        found.append(Figure("alpha", title, "softmax(alpha) of the last supernet, in percent.", draw))
    return found


def network(run: Run) -> list[Figure]:
    """Draws the derived network, where there is one."""
    draw = drawing.network(run.genotype)
    return [Figure("network", "The derived network", "", draw)] if draw else []


def strip(run: Run) -> list[Figure]:
    """Draws how long the phases took."""
    spans = [(phase.name, sum(_number(e.number("seconds")) for e in run.of(phase.name))) for phase in run.phases]
    if run.kind == "training" or not any(seconds for _, seconds in spans):
        return []
    told = ", ".join(f"{name} {charts.duration(seconds)}" for name, seconds in spans)
    title = "Time of the phases"
    return [Figure("phases", title, "", charts.phase_strip(spans, title=title, description=told))]


def all_of(run: Run) -> list[Figure]:
    """Returns every figure of a run."""
    return [
        *front.figures(run.front),
        *tested.figures(run.tested),
        *strip(run),
        *network(run),
        *course(run),
        *architecture(run),
    ]


def compared(runs: Sequence[tuple[str, Run]]) -> list[Figure]:
    """Draws curves of several runs, each under its label, over the same epochs."""
    epochs = sorted({e.epoch for _, run in runs for e in run.epochs})
    plans = {tuple(run.phases) for _, run in runs}
    time = Time(epochs, max((run.total for _, run in runs), default=0), next(iter(plans)) if len(plans) == 1 else ())
    found: list[Figure] = []
    rate = f"{' or '.join(sorted({counted(run) for _, run in runs}))} per second".capitalize()
    for metric in dict.fromkeys(run.metric for _, run in runs):
        lines = [
            Line(label, [metric.value(value) for value in _over(epochs, run, "valid_accuracy")])
            for label, run in runs
            if run.metric == metric
        ]
        if any(_any(line.values) for line in lines):
            name, share = f"valid_{metric.kind}", metric.kind == "accuracy"
            name = name if name not in {figure.name for figure in found} else f"{name}_{len(found) + 1}"
            draw = charts.line_chart(
                time,
                lines,
                title=(title := f"Validation {metric.name}"),
                description=_description(lines),
                show=charts.share if share else svg.short,
                bounds=(0.0, 1.0) if share else (None, None),
            )
            found.append(Figure(name, title, "" if share else f"{_capital(metric.direction)}.", draw))
    for key, title, bounds in (
        ("train_loss", "Training loss", (None, None)),
        ("entropy", "Mean entropy", (0.0, None)),
        ("max_weight", "Mean largest probability", (0.0, 1.0)),
        ("images_per_second", rate, (0.0, None)),
    ):
        lines = [Line(label, _over(epochs, run, key)) for label, run in runs]
        if any(_any(line.values) for line in lines):
            draw = charts.line_chart(time, lines, title=title, description=_description(lines), bounds=bounds)
            found.append(Figure(key, title, "", draw))
    return found


def _over(epochs: Sequence[int], run: Run, key: str) -> list[float]:
    """Returns a number of the run at each of the epochs, NaN where there is none."""
    known = {e.epoch: e.number(key) for e in run.epochs}
    return [known.get(epoch, math.nan) for epoch in epochs]


def smoothed(run: Run) -> list[float]:
    """Returns the median of the images per second of an epoch and the four before it in its phase."""
    result = []
    for i, epoch in enumerate(run.epochs):
        near = [e.number("images_per_second") for e in run.epochs[max(0, i - 4) : i + 1] if e.phase == epoch.phase]
        finite = [value for value in near if math.isfinite(value)]
        result.append(statistics.median(finite) if finite else math.nan)
    return result


def write(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Writes each figure as SVG, for light and dark pages, and, where resvg_py is installed, as PNG on white.

    Returns the paths. Raises OSError and CheckpointError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = paths(figures, folder)
    for figure, path in zip(figures, written[: len(figures)], strict=True):
        drawn = figure.draw(WIDE)
        write_atomically(path, _styled(drawn, palette.variables() + svg.STYLE).encode())
        if path.with_suffix(".png") in written:
            write_atomically(path.with_suffix(".png"), _png(palette.written_out(_styled(drawn, svg.STYLE), "light")))
    return written


def paths(figures: Sequence[Figure], folder: Path) -> list[Path]:
    """Returns the files that `write` writes, first the SVGs and then the PNGs."""
    drawings = [folder / f"{figure.name}.svg" for figure in figures]
    images = [path.with_suffix(".png") for path in drawings] if importlib.util.find_spec("resvg_py") else []
    return drawings + images


def _png(drawn: str) -> bytes:
    """Renders a PNG with two pixels for each of the drawing's."""
    from resvg_py import svg_to_bytes

    return bytes(svg_to_bytes(svg_string=drawn, zoom=2.0, background="#ffffff"))


def _styled(drawn: Markup, style: str) -> str:
    opening, rest = str(drawn).split(">", 1)
    return f"{opening}>{svg.tag('style', Markup(style))}{rest}\n"


def _time(run: Run) -> Time:
    return Time([e.epoch for e in run.epochs], run.total, run.phases, events(run))


def _description(lines: Sequence[Line]) -> str:
    told = []
    for line in lines:
        finite = [value for value in line.values if math.isfinite(value)]
        if finite:
            told.append(f"{line.label}: {finite[0]:.4g} at first, {finite[-1]:.4g} at last, {max(finite):.4g} at most")
    return "; ".join(told)


def _any(values: Sequence[float]) -> bool:
    return any(math.isfinite(value) for value in values)


def _number(value: float) -> float:
    return value if math.isfinite(value) else 0.0
