"""What a run shows in the console while it goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asose_fast.engine import deadline
from asose_fast.engine.finals import finals
from asose_fast.engine.growth.control import describe
from asose_fast.engine.health import guard
from asose_fast.engine.loop import RunState
from asose_fast.engine.metric import ACCURACY, Metric
from asose_fast.engine.observer import Observer
from asose_fast.engine.phases import Phase
from asose_fast.engine.record import Record
from asose_fast.engine.state import SearchState
from asose_fast.observe.epoch_bar import EpochBar
from asose_fast.terminal import make_console


class ConsoleObserver(Observer):
    """A progress bar while an epoch runs and one line of indicators when it ends."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or make_console()
        self._phase = ""
        self._bar = EpochBar(self.console)

    def on_epoch_start(self, state: SearchState, phase: Phase) -> None:
        if phase.name != self._phase:
            self._phase = phase.name
            unseen = "" if state.validates else ", on the validation images too: no validation accuracy"
            self.console.rule(
                Text(f"{phase.name}: {phase.epochs} epochs{unseen}{_own(state.task.metric)}"), align="left"
            )
            self.console.print(Text(_header(state.task.metric), style="bold"), soft_wrap=True)
        self._bar.begin(state, phase)

    def on_step(self, state: SearchState) -> None:
        temperature = f"  T {state.selector.temperature:.2f}" if self.console.width >= 100 else ""
        images = state.weight_meter.images + state.alpha_meter.images
        self._bar.advance(state, images, temperature, state.task.metric)

    def on_epoch_end(self, state: SearchState, record: Record) -> None:
        self.close()
        judged = record["phase"] in ("search", "growth")
        metric, found = Metric.of(record), record["valid_accuracy"]
        valid = " none" if found is None else _written(metric, metric.value(found), 5)
        line = Text(
            f"{record['epoch']:4d}/{state.epochs:<4d}  {record['phase']:8s}  {record['train_loss']:5.3f}  "
            f"{valid}  {record['temperature']:5.3f}  "
        )
        score: Callable[[float], str] = partial(_written, metric)
        formats = ("{:6d}".format, "{:5.3f}".format, "{:7.3f}".format, score, "{:6.2f}".format, "{:10.0%}".format)
        for form, item in itertools.zip_longest(formats, record["health"]):
            if item is None:  # the blocks are not judged in every space
                line.append(" " * 11)
            else:
                value = form(item["value"])
                line.append_text(_marked(value, item["ok"], self.console.encoding) if judged else Text(f"{value} "))
            line.append("  ")
        line.append(f"{record['images_per_second']:8.0f}  {len(record['path']):5d}")
        self.console.print(line, soft_wrap=True)
        events = [*describe(record.get("growth") or {}), *guard.describe(record.get("guard") or {})]
        events += deadline.describe(record.get("planned") or {})
        for event in [*events, *map(finals.describe, record.get("finals", []))]:
            self.console.print(Text(f"  {event}"), soft_wrap=True)

    def close(self) -> None:
        """Takes the progress bar away."""
        self._bar.close()


def _header(metric: Metric) -> str:
    """The names of the columns, in which that of a metric must have room."""
    name = metric.name if len(metric.name) <= len(ACCURACY.name) else metric.kind
    return (
        f"epoch      phase     loss   valid  T      errors  max w   entropy  {name:8s}  steady  "
        "weightless  images/s  depth"
    )


def _own(metric: Metric) -> str:
    """What a reader must know of a metric that is no accuracy."""
    return "" if metric.kind == "accuracy" else f"; valid is {metric.name}, {metric.direction}"


def _written(metric: Metric, value: float, width: int = 8) -> str:
    """An accuracy in percent, and anything else as it is."""
    return f"{value:{width}.1%}" if metric.kind == "accuracy" else f"{value:{width}.3f}"


def _marked(text: str, ok: bool, encoding: str) -> Text:
    """A text with the mark of a good or a bad value, one that the encoding of the terminal has."""
    mark, plain = ("✓", "+") if ok else ("✗", "!")
    try:
        mark.encode(encoding)
    except UnicodeEncodeError:
        mark = plain
    return Text(text + mark, style="green" if ok else "red")


class RetrainingConsole(Observer):
    """A progress bar while an epoch of a training from scratch runs, and, with `lines`, one line when it ends."""

    def __init__(self, console: Console, *, lines: bool = True) -> None:
        self.console, self._lines, self._bar = console, lines, EpochBar(console)

    def on_epoch_start(self, state: RunState, phase: Phase) -> None:
        self._bar.begin(state, phase)

    def on_step(self, state: RunState) -> None:
        self._bar.advance(state, state.weight_meter.images)

    def on_epoch_end(self, state: RunState, record: Record) -> None:
        self.close()
        if not self._lines:
            return
        valid = f"  valid {record['valid_accuracy']:.1%}" if "valid_accuracy" in record else ""
        self.console.print(
            f"{record['epoch']:4d}/{state.epochs:<4d}  loss {record['train_loss']:.3f}  train "
            f"{record['train_accuracy']:.1%}{valid}  {record['images_per_second']:.0f} images/s",
            soft_wrap=True,
        )

    def close(self) -> None:
        """Takes the progress bar away."""
        self._bar.close()


def health_table(indicators: list[dict[str, Any]]) -> Table:
    """The indicators of one epoch: value, bound, verdict."""
    table = Table("indicator", "value", "bound", "", title="Health at the end of the search")
    for item in indicators:
        verdict = Text("ok", style="green") if item["ok"] else Text("BREACHED", style="red")
        table.add_row(Text(item["name"]), f"{item['value']:.4g}", Text(item["bound"]), verdict)
    return table
