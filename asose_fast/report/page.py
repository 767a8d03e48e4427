"""A page is of one run, or of several compared. Jinja2 templates make the HTML, and escape whatever they are given."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from asose_fast.engine.metric import Metric
from asose_fast.report import charts, comparison, costs, figures, front, palette, results, svg, tested
from asose_fast.report.charts import Figure
from asose_fast.report.epochs import Epoch, number
from asose_fast.report.finals import bracket
from asose_fast.report.following import following
from asose_fast.report.run import Run, counted
from asose_fast.report.settings import environment, settings, unlike
from asose_fast.space.latency import Target

ROWS = 250
"""The table of a page has so many epochs. metrics.jsonl has them all."""
OVER = {"search": "Architecture search", "library": "Architecture search", "training": "Training from scratch"}
STATES = {
    "finished": "finished",
    "running": "running when this was written",
    "unfinished": "not finished",
}


def render(run: Run) -> str:
    """Returns the page of a run."""
    return (
        _templates()
        .get_template("run.html")
        .render(
            style=_style(),
            run=run,
            title=_title(run),
            state=STATES[run.state],
            over=OVER[run.kind],
            lead=lead(run),
            facts=facts(run),
            intervals=results.SAID_OF_INTERVALS if results.images(run.summary, "test") else "",
            advice=advice(run),
            comparison=comparison.shown(run.comparison, run.genotype),
            compare=comparison.command(run.name, run.genotype) if run.state == "finished" else None,
            front=front.shown(run.front),
            front_chart=_drawn(front.figures(run.front)),
            tested=tested.shown(run.tested),
            confusion=_drawn(tested.figures(run.tested)),
            network=_drawn(figures.network(run)),
            strip=_drawn(figures.strip(run)),
            course=_drawn(figures.course(run)),
            architecture=_drawn(figures.architecture(run)),
            phases=phases(run),
            rate=f"{counted(run)}/s".capitalize(),
            bracket=bracket(run),
            trainings=trainings(run),
            following=following(run),
            events=figures.events(run),
            skipped=_skipped(run),
            health=health(run),
            settings=settings(run),
            environment=environment(run),
            table=_table(run),
        )
    )


def compare(runs: Sequence[Run]) -> str:
    """Returns the page of several runs. Their labels are the names of their folders, numbered where these are alike."""
    labels = label(runs)
    named = list(zip(labels, runs, strict=True))
    return (
        _templates()
        .get_template("compare.html")
        .render(
            style=_style(),
            labels=labels,
            over=" and ".join(dict.fromkeys(OVER[run.kind] for run in runs)),
            runs=runs,
            rows=_compared(runs),
            intervals=_said_of(runs),
            figures=_drawn(figures.compared(named)),
            settings=unlike([run.config for run in runs]),
            health=[(name, health(run)) for name, run in named],
            states=STATES,
        )
    )


def _said_of(runs: Sequence[Run]) -> str:
    if not any(results.images(run.summary, "test") for run in runs):
        return ""
    return f"{results.SAID_OF_INTERVALS} {results.SAID_OF_DIFFERENCES}"


@functools.cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("asose_fast.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = charts.duration
    return environment


def _style() -> Markup:
    return Markup(palette.variables() + "\n" + svg.STYLE)  # constants of this package


def _drawn(found: Iterable[Figure]) -> list[dict[str, Any]]:
    return [
        {
            "name": figure.name,
            "title": figure.title,
            "caption": figure.caption,
            "wide": figure.draw(figures.WIDE),
            "narrow": figure.draw(figures.NARROW),
        }
        for figure in found
    ]


def label(runs: Sequence[Run]) -> list[str]:
    """Returns a name for each run, unlike the others."""
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def _title(run: Run) -> str:
    return str(run.config.get("dataset") or run.name)


def lead(run: Run) -> tuple[str, str]:
    """Returns the first figure of the page, and what it is."""
    metric, network = run.metric, "network trained from scratch" if run.kind == "training" else "derived network"
    direction = "" if metric.kind == "accuracy" else f", {metric.direction}"
    test = number(run.summary.get("test_accuracy"))
    if math.isfinite(test):
        return results.test_of(run.summary, metric), f"test {metric.name} of the {network}{direction}"
    valid = [e.number("valid_accuracy") for e in run.epochs]
    best = max((v for v in valid if math.isfinite(v)), default=math.nan)
    if math.isfinite(best):
        return results.written(metric, best), f"best validation {metric.name} so far{direction}"
    train = run.epochs[-1].number("train_accuracy") if run.epochs else math.nan
    if math.isfinite(train):
        return results.written(metric, train), f"{metric.name} on the training images so far{direction}"
    return svg.NONE, "no epoch has ended yet"


def facts(run: Run) -> list[tuple[str, str]]:
    """Returns what stands below the first figure, as name and value."""
    done = run.epochs[-1].epoch if run.epochs else 0
    total = run.total
    seconds = _total(e.number("seconds") for e in run.epochs)
    found = [
        ("epochs", f"{done:,} of {total:,}" if done < total else f"{done:,}"),
        ("training", charts.duration(seconds)),
    ]
    if counts := results.splits(run):
        found.append(("images", counts))
    valid, name = number(run.summary.get("valid_accuracy")), f"validation {run.metric.name}"
    if math.isfinite(valid):
        found.append((name, results.written(run.metric, valid)))
    elif run.summary.get("optimize_on") == "all":
        found.append((name, "none: trained on these images too"))
    for key, name in (("parameters", "parameters"), ("flops", "FLOPs an image"), ("depth", "depth")):
        if math.isfinite(value := number(run.summary.get(key))):
            found.append((name, f"{value:,.0f}"))
    if math.isfinite(size := number(run.summary.get("size"))):
        found.append(("size of the weights", f"{costs.kilobytes(size)} kB"))
    if latency := _latency(run.summary.get("latency")):
        found.append(latency)
    if left_out := _list(run.summary.get("left_out")):
        found.append(("blocks left out", f"{len(left_out)}, which computed nothing"))
    rate = _median(e.number("images_per_second") for e in run.epochs)
    if math.isfinite(rate):
        found.append((f"{counted(run)}/s", f"{rate:,.0f}"))
    if run.kind != "training":
        errors = _total(e.number("batch_size_errors") for e in run.epochs)
        found.append(("batch-size errors", f"{errors:,.0f}"))
    return found


def _latency(found: Any) -> tuple[str, str] | None:
    """Returns where the derived network was timed, and how long it took."""
    try:
        target = Target(str(found["device"]), int(found["threads"]), int(found["batch"]))
        times = f"{float(found['milliseconds']):.3g} ms (median {float(found['median']):.3g} ms"
        predicted = found["predicted"]
        more = "" if predicted is None else f", predicted {float(predicted):.3g} ms"
    except (KeyError, TypeError, ValueError):
        return None
    return f"latency, {target.words}", f"{times}{more})"


def trainings(run: Run) -> list[tuple[str, list[str]]]:
    """Returns for each training of the architecture from scratch its folder, epochs, result, parameters and time."""
    return [
        (
            name,
            [
                _count(summary["settings"].get("epochs")),
                results.test_of(summary, Metric.of(summary)),
                _count(summary.get("parameters")),
                charts.duration(number(summary.get("seconds"))),
            ],
        )
        for name, summary in run.trainings
    ]


def _count(value: Any) -> str:
    return f"{found:,.0f}" if math.isfinite(found := number(value)) else svg.NONE


def advice(run: Run) -> list[str]:
    """Returns what the run's plan was too short for, and what it said of its network in the end, in sentences."""
    said = [*run.shortcomings, *_list(run.summary.get("advice"))]
    return [sentence for sentence in said if isinstance(sentence, str)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def phases(run: Run) -> list[dict[str, str]]:
    """Returns a row for each phase. A training from scratch has none."""
    if run.kind == "training":
        return []
    result = []
    for phase in run.phases:
        epochs = run.of(phase.name)
        valid = [v for e in epochs if math.isfinite(v := e.number("valid_accuracy"))]
        result.append(
            {
                "name": phase.name,
                "epochs": f"{len(epochs)} of {phase.epochs}" if len(epochs) != phase.epochs else str(len(epochs)),
                "time": charts.duration(_total(e.number("seconds") for e in epochs)) if epochs else svg.NONE,
                "first": results.written(run.metric, valid[0] if valid else math.nan),
                "last": results.written(run.metric, valid[-1] if valid else math.nan),
                "rate": _rate(_median(e.number("images_per_second") for e in epochs)),
                "trend": trend(epochs),
            }
        )
    return result


def _rate(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else svg.NONE


def trend(epochs: Sequence[Epoch]) -> str:
    """Says how the images per second changed: the median of the last five epochs over that of the first five."""
    rates = [value for e in epochs if math.isfinite(value := e.number("images_per_second"))]
    if len(rates) < 10 or not statistics.median(rates[:5]):
        return svg.NONE
    return f"{100 * (statistics.median(rates[-5:]) / statistics.median(rates[:5]) - 1):+.0f} %".replace("-", svg.MINUS)


def health(run: Run) -> list[dict[str, Any]]:
    """Returns a row for each indicator, at the end of the search or, before that, at the last epoch of it."""
    judged = [e for e in run.epochs if e.phase in ("search", "growth") and e.health]
    if not judged:
        return []
    result = []
    for item in judged[-1].health:
        name = str(item.get("name"))
        breached = [
            e.epoch for e in judged if any(i.get("name") == item.get("name") and not i.get("ok") for i in e.health)
        ]
        value = number(item.get("value"))
        result.append(
            {
                "name": name,
                "value": f"{value:.4g}" if math.isfinite(value) else svg.NONE,
                "bound": str(item.get("bound", svg.NONE)),
                "ok": bool(item.get("ok")),
                "breached": f"{len(breached)} of {len(judged)}",
                "last": str(breached[-1]) if breached else svg.NONE,
            }
        )
    return result


def _table(run: Run) -> dict[str, Any]:
    columns: list[tuple[str, str, str | None]] = [
        ("train_loss", "loss", "{:.4f}"),
        ("train_accuracy", "training", None),
        ("valid_accuracy", "validation", None),
        ("temperature", "T", "{:.3f}"),
        ("entropy", "entropy", "{:.3f}"),
        ("max_weight", "max weight", "{:.3f}"),
        ("learning_rate", "learning rate", "{:.4f}"),
        ("seconds", "seconds", "{:.2f}"),
        ("images_per_second", f"{counted(run)}/s", "{:,.0f}"),
    ]
    columns = [column for column in columns if any(column[0] in e.numbers for e in run.epochs)]
    every = math.ceil(len(run.epochs) / ROWS) or 1
    epochs = run.epochs[::-1][::every][::-1]
    return {
        "every": every,
        "columns": [name for _, name, _ in columns],
        "rows": [
            (
                e.epoch,
                e.phase,
                [_cell(run.metric, e.number(key), form) for key, _, form in columns],
            )
            for e in epochs
        ],
    }


def _cell(metric: Metric, value: float, form: str | None) -> str:
    """Words a number of an epoch in a form, or without one as what was measured."""
    if form is None:
        return results.written(metric, value)
    return form.format(value) if math.isfinite(value) else svg.NONE


def _skipped(run: Run) -> list[tuple[int, str, str]]:
    """Returns the growths that were passed over, with epoch, kind and reason."""
    return [
        (epoch.epoch, str(kind), str(reason))
        for epoch in run.epochs
        if isinstance(epoch.growth.get("skipped"), dict)
        for kind, reason in epoch.growth["skipped"].items()
    ]


def _compared(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Returns the rows of the comparison: what, and its value in each run."""
    found: dict[str, list[str]] = {"state": [STATES[run.state] for run in runs]}
    alike = len({run.metric for run in runs}) == 1
    measured = [results.test_of(run.summary, run.metric) for run in runs]
    if alike:
        found[f"test {runs[0].metric.name}"] = measured
    else:
        found["test"] = [f"{run.metric.name} {said}" for run, said in zip(runs, measured, strict=True)]
    differences = results.differences(runs)
    if any(said != svg.NONE for said in differences):
        found[f"beside {label(runs)[0]}"] = differences
    rest = [dict(facts(run)) for run in runs]
    for name in dict.fromkeys(name for each in rest for name in each):
        found[name] = [each.get(name, svg.NONE) for each in rest]
    paths = [run.epochs[-1].path if run.epochs else [] for run in runs]
    named = [path or _list(run.summary.get("operations")) for path, run in zip(paths, runs, strict=True)]
    found["operations"] = [", ".join(map(str, names)) or svg.NONE for names in named]
    return list(found.items())


def _total(values: Iterable[float]) -> float:
    return sum(value for value in values if math.isfinite(value))


def _median(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return statistics.median(finite) if finite else math.nan
