"""What is known of a run is read from its folder, as far as the files are there and whole."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from asose_fast import files
from asose_fast.config import Config, PhaseConfig
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.comparison import record as comparison
from asose_fast.engine.comparison.record import Comparison
from asose_fast.engine.front import record as front
from asose_fast.engine.front.record import Front
from asose_fast.engine.metric import Metric
from asose_fast.engine.phases import Phase, plan
from asose_fast.engine.tested import record as tested
from asose_fast.engine.tested.record import Tested
from asose_fast.report.epochs import LARGEST, Epoch, parse
from asose_fast.store import checkpoint_folder, retrained

Kind = Literal["search", "library", "training"]
"""A search on images, one of `asose_fast.search` in a user's own network, or a training from scratch."""
FILES = ("metrics.jsonl", "config.yaml", "summary.json", "genotype.json")
T = TypeVar("T")
_TIME = "%Y-%m-%d %H:%M:%S %Z"
State = Literal["finished", "running", "unfinished"]


class Choice(NamedTuple):
    """The choice is softmax(alpha) of the last supernet."""

    candidates: list[str]
    probabilities: list[list[float]]
    """The probabilities have shape (L, K)."""


class Training(NamedTuple):
    """The architecture of a run was trained from scratch, with this summary."""

    name: str
    summary: dict[str, Any]


@dataclasses.dataclass
class Run:
    """A run is all that a report shows."""

    name: str
    state: State
    epochs: list[Epoch] = dataclasses.field(default_factory=list)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    genotype: dict[str, Any] = dataclasses.field(default_factory=dict)
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)
    choice: Choice | None = None
    comparison: Comparison | None = None
    front: Front | None = None
    tested: Tested | None = None
    """Of a run that has ended, where its test images were recorded."""
    shortcomings: list[Any] = dataclasses.field(default_factory=list)
    """The plan is too short for this, in sentences."""
    trainings: list[Training] = dataclasses.field(default_factory=list)
    place: str = ""
    """The folder, as it was named."""
    problems: list[str] = dataclasses.field(default_factory=list)
    """The reader of the report is told what could not be read."""
    written: datetime.datetime = dataclasses.field(default_factory=lambda: datetime.datetime.now().astimezone())
    next_within: float | None = None
    """The next report of a running run follows within so many seconds, unless the run was killed."""

    @property
    def kind(self) -> Kind:
        """Returns what it is a run of, which its settings show."""
        if "keep_validation" in self.config or is_training(self.summary):
            return "training"
        return "library" if self.choices or (self.config and "dataset" not in self.config) else "search"

    @property
    def metric(self) -> Metric:
        """Returns what was measured."""
        return self.epochs[-1].metric if self.epochs else Metric.of(self.summary)

    @property
    def choices(self) -> dict[str, str]:
        """Returns the chosen candidate by mixed operation, of a search in a network of the user's own."""
        found = self.summary.get("choices")
        return {str(name): str(choice) for name, choice in found.items()} if isinstance(found, dict) else {}

    @property
    def written_text(self) -> str:
        """Words when this was found out."""
        return self.written.strftime(_TIME)

    @property
    def due_text(self) -> str | None:
        """Words by when the next report follows."""
        if self.next_within is None:
            return None
        return (self.written + datetime.timedelta(seconds=self.next_within)).strftime(_TIME)

    @property
    def phases(self) -> list[Phase]:
        """Returns the phases as planned by the settings. Where these are missing, it returns them as found."""
        if self.kind == "training" and _length(whole := self.config.get("epochs")) and whole:
            return [Phase("training", 0, whole)]
        lengths: dict[str, Any] = {
            field.name: self.config.get(field.name, 0 if field.name == "finals_epochs" else None)
            for field in dataclasses.fields(PhaseConfig)
            if field.name.endswith("epochs")
        }
        if all(_length(length) or (name, length) == ("epochs", None) for name, length in lengths.items()):
            try:
                planned = list(plan(PhaseConfig(**lengths)))
                if {e.phase for e in self.epochs} <= {phase.name for phase in planned}:
                    return planned
            except ValueError:  # the settings of no run: what follows needs none
                pass
        found: list[Phase] = []
        for epoch in self.epochs:
            if not found or found[-1].name != epoch.phase:
                found.append(Phase(epoch.phase, epoch.epoch - 1, 1))
            else:
                found[-1] = dataclasses.replace(found[-1], epochs=epoch.epoch - found[-1].first)
        return found

    @property
    def total(self) -> int:
        """Returns how many epochs the whole run has."""
        return max([phase.end for phase in self.phases] + [e.epoch for e in self.epochs], default=0)

    def of(self, phase: str) -> list[Epoch]:
        """Returns the epochs of a phase."""
        return [epoch for epoch in self.epochs if epoch.phase == phase]


def counted(run: Run) -> str:
    """Names what a batch of the run holds."""
    return "examples" if run.kind == "library" else "images"


def _length(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def is_training(summary: dict[str, Any]) -> bool:
    """Says whether a summary is of a training from scratch, whose settings no search has."""
    settings = summary.get("settings")
    return isinstance(settings, dict) and "keep_validation" in settings


def read(folder: Path, *, checkpoints: bool = True) -> Run:
    """Reads a run folder, provenance and alpha from its checkpoints. What is missing or damaged is named in `problems`.

    Raises ValueError where the folder holds nothing of a run.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}")
    if not any((folder / name).exists() for name in FILES):
        raise ValueError(f"{folder} is no run folder: it has none of {', '.join(FILES)}")
    run = Run(folder.resolve().name or str(folder), "unfinished", place=str(folder))
    run.config = _read(folder / "config.yaml", files.parse_yaml, files.MOST_SETTINGS, run.problems) or {}
    run.summary = _read(folder / "summary.json", json.loads, files.MOST_RESULT, run.problems, needed=False) or {}
    derived = bool(run.summary) and not run.choices
    run.genotype = _read(folder / "genotype.json", json.loads, files.MOST_RESULT, run.problems, needed=derived) or {}
    run.state = "finished" if run.summary else "unfinished"
    run.epochs = _epochs(folder / "metrics.jsonl", run.problems)
    run.comparison = _recorded(comparison.load, folder / comparison.FOLDER, run.problems, "comparison")
    run.front = _recorded(front.load, folder / front.FOLDER, run.problems, "front")
    said = run.summary.get("shortcomings")
    run.shortcomings = said if isinstance(said, list) else []
    run.tested = _recorded(tested.load, folder, run.problems) if run.summary else None
    run.trainings = _trainings(folder)
    if checkpoints:
        _read_checkpoint(folder / "checkpoints", run)
    return run


def _recorded(load: Callable[[Path], T], folder: Path, problems: list[str], what: str = "") -> T | None:
    """Returns what `load` finds in a folder; None where there is nothing. `problems` is told of what cannot be read, by
    the name `what` where the error does not say it."""
    try:
        return load(folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        problems.append(f"the {what} cannot be read: {reason}" if what else reason)
        return None


def _read(
    path: Path, decode: Callable[[bytes], Any], most: int, problems: list[str], *, needed: bool = True
) -> dict[str, Any] | None:
    try:
        values = decode(files.read(path, most))
    except FileNotFoundError:
        if needed:
            problems.append(f"{path.name} is missing")
        return None
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror or error}")
        return None
    except (ValueError, RecursionError) as error:
        problems.append(f"{path.name} is damaged: {str(error).splitlines()[0]}")
        return None
    if not isinstance(values, dict):
        problems.append(f"{path.name} is damaged: it does not hold names with values")
        return None
    return {str(name): value for name, value in values.items()}


def _trainings(folder: Path) -> list[Training]:
    """Reads what is left of the trainings that the run remembers; one that cannot be read has a report of its own."""
    found = []
    for place in retrained.known(folder):
        summary = _read(place / "summary.json", json.loads, files.MOST_RESULT, [], needed=False)
        if summary and is_training(summary):
            inside = place.is_relative_to(folder)
            found.append(Training(str(place.relative_to(folder) if inside else place), summary))
    return found


def _epochs(path: Path, problems: list[str]) -> list[Epoch]:
    try:
        lines = files.read(path, files.MOST_METRICS).decode(errors="replace").splitlines()
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {error.strerror or error}")
        return []
    found: dict[int, Epoch] = {}
    bad: list[int] = []
    for i, line in enumerate(lines, start=1):
        try:
            epoch = parse(json.loads(line))
        except (ValueError, RecursionError):
            epoch = None
        if epoch is None:
            bad.append(i)
        else:
            found[epoch.epoch] = epoch
    if bad:
        listed = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        problems.append(f"{path.name}: {len(bad)} of {len(lines)} lines are damaged and left out (line {listed})")
    return [found[epoch] for epoch in sorted(found)]


def _read_checkpoint(folder: Path, run: Run) -> None:
    """Reads provenance and alpha from the newest good checkpoint."""
    if not checkpoint_folder.holds_checkpoints(folder):
        return
    try:
        _, state = checkpoint_folder.load_newest(folder, run.problems.append)
        if "provenance" in state:
            run.provenance = dict(state["provenance"])
        if "selector" in state:
            run.choice = _choice(Config.from_dict(state["config"]), state["selector"])
    except Exception as error:  # a checkpoint of another release fails in many ways, none of which matters here
        run.problems.append(f"the checkpoints do not say more: {str(error).splitlines()[0] if str(error) else error!r}")


def _choice(config: Config, state: dict[str, Any]) -> Choice:
    selector = Selector(config, state["candidates"], 1, config.seed, torch.device("cpu"))
    selector.load_state_dict(state)
    return choice(selector)


def choice(selector: Selector) -> Choice:
    """Returns the choice of a selector as it is."""
    return Choice(list(selector.candidates), selector.logits().detach().softmax(1).tolist())
