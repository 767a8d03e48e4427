"""Trains a derived architecture from scratch.

GENOTYPE is a run folder, its `genotype.json`, or an architecture of cells in the text format of DARTS or
NAS-Bench-201, as it is or in a file. The images are those of the run unless options say otherwise, as --dataset
does where they have moved. Killed and called again with the same options and --out, it goes on from its last
checkpoint.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from asose_fast import files
from asose_fast.command import command, warn
from asose_fast.config import Config, LatencyConfig
from asose_fast.data import Data, settled
from asose_fast.data.config import DataConfig
from asose_fast.data.place import absolute, load_again, require_outside
from asose_fast.engine.comparison.training import seconds_per_epoch
from asose_fast.engine.deadline import Deadline
from asose_fast.engine.device import device_named
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.processes import started
from asose_fast.engine.recipe import class_weights
from asose_fast.engine.recipe.teacher import located
from asose_fast.engine.record import Record
from asose_fast.engine.rehearsal import AFTER, FORWARD
from asose_fast.engine.result import latency
from asose_fast.engine.retrainer import PHASE, RetrainConfig, Retrainer, TrainingState
from asose_fast.engine.tested.record import recorded
from asose_fast.engine.threads import set_threads
from asose_fast.machine import refused
from asose_fast.observe import tracking
from asose_fast.observe.console import RetrainingConsole
from asose_fast.observe.forecast import clock
from asose_fast.observe.metrics import MetricsObserver
from asose_fast.observe.settings import SettingsObserver, write_settings
from asose_fast.observe.tracking import TRACK, Service
from asose_fast.options import SettingsParser
from asose_fast.paths import given_path
from asose_fast.report import costs
from asose_fast.report.observer import ReportObserver
from asose_fast.report.own import require_own
from asose_fast.space.build import Spec
from asose_fast.space.cells.genotype import from_text, is_text
from asose_fast.space.cells.spec import Kind
from asose_fast.space.cost import cost_of
from asose_fast.space.latency import Target
from asose_fast.space.network import NetworkSpec
from asose_fast.space.prune import pruned
from asose_fast.stopping import stopping_on_signals
from asose_fast.store import checkpoint_folder, derived, retrained, run_folder
from asose_fast.store.checkpoint import CheckpointError, write_atomically, write_json
from asose_fast.terminal import make_console
from asose_fast.training_config import RecipeConfig
from asose_fast.version import __version__

EVALUATION: dict[Kind, tuple[int, int]] = {"darts": (36, 20), "nasbench201": (16, 5)}
"""Channels and cells of the networks that published architectures are trained in."""

RECIPE = (
    "batch_size",
    "learning_rate",
    "momentum",
    "weight_decay",
    "gradient_clip",
    *(field.name for part in (RecipeConfig, LatencyConfig) for field in dataclasses.fields(part)),
)
"""These settings are those of the run whose network is trained, and timed where that was."""


@command
def main(arguments: Sequence[str]) -> int:
    """Trains or goes on training. Returns the exit status: 0, 2 (error), 128 + signal."""
    began, options = time.monotonic(), parser()
    words = options.words(arguments)
    folder, architecture = _architecture(options.parse_args(words).genotype)
    options.set_defaults(_settings_of(folder))
    settings = options.parse_args(words)
    if {"--epochs", "--seconds"} <= {word.partition("=")[0] for word in words}:
        raise ValueError("--epochs and --seconds say in two ways how long a training is: leave one of them out")
    if not settings.dataset:
        raise ValueError(f"there is no {folder}/config.yaml that says which images it is of: give --dataset")
    values = {field.name: settings[field.name] for field in dataclasses.fields(RetrainConfig)}
    config = located(absolute(RetrainConfig(**values)))
    name = f"retrain-{time.strftime('%Y%m%d-%H%M%S')}"
    place = given_path(settings.out or (folder or Path("runs")) / name)
    require_outside(config, place)
    with run_folder.claimed(place, new=settings.out is None) as out:
        _check_out(out, folder, settings.overwrite)
        status = _run(config, architecture, out, make_console(), settings.overwrite, settings.track, began)
        if not status and folder is not None:
            _tell(folder, out)
        return status


def parser() -> SettingsParser:
    """The options of the training, with those of its images."""
    options = SettingsParser("retrain", __doc__, "GENOTYPE")
    options.add_argument(
        "genotype", metavar="GENOTYPE", help="A run folder, its genotype.json, or the text of a genotype of cells."
    )
    options.add_argument(
        "--out", type=str | None, metavar="FOLDER", help="The folder to write; default: RUN/retrain-TIME."
    )
    options.add_argument(
        "--overwrite",
        type=bool,
        default=False,
        help="Begin anew though --out is not empty, and replace what a run or a training has left there.",
    )
    options.add_argument("--track", type=Service | None, default=None, help=TRACK)
    options.add_settings(RetrainConfig)
    return options


def _architecture(word: str) -> tuple[Path | None, Spec | str]:
    """The run folder and its architecture, or no folder and a text of cells."""
    if is_text(word):
        return None, word
    path = given_path(word)
    folder = path if path.is_dir() else path.parent
    if path.exists() and not path.is_dir() and path.name != derived.GENOTYPE:
        text = files.read(path, files.MOST_SETTINGS).decode(errors="replace")
        if is_text(text):
            return None, text
    if not path.is_dir() and path.name != derived.GENOTYPE:
        raise ValueError(f"{path} is neither a run folder nor a {derived.GENOTYPE}, nor a file with a genotype's text")
    return folder, derived.load_genotype(folder).network


def _spec(architecture: Spec | str, config: RetrainConfig, data: Data) -> Spec:
    """Of a text, the evaluation network of the published size for its space, unless the config has another."""
    if not isinstance(architecture, str):
        return architecture
    kind: Kind = "nasbench201" if architecture.lstrip().startswith("|") else "darts"
    channels, cells = config.channels or EVALUATION[kind][0], config.cells or EVALUATION[kind][1]
    return from_text(architecture, in_channels=data.channels, classes=len(data.classes), channels=channels, cells=cells)


def _settings_of(folder: Path | None) -> dict[str, Any]:
    """The images of the run in `folder` and the recipe that its derived network had, which hold where no option says
    otherwise; no dataset where it does not say."""
    if folder is None:
        return {}
    path, names = folder / "config.yaml", [field.name for field in dataclasses.fields(DataConfig)]
    if not os.path.lexists(path):
        return {"dataset": ""}
    run = Config.completed(files.read_settings(path))
    if missing := [name for name in names if name not in run]:
        raise ValueError(f"{path} is damaged: {', '.join(missing)} of the images are missing")
    own = {name: run.get(f"optimize_{name}") for name in ("learning_rate", "weight_decay")}
    run |= {name: value for name, value in own.items() if value is not None}
    values = {name: run[name] for name in (*names, *RECIPE) if name in run}  # runs of old have less of a recipe
    if values.get("batch_size") == 1:
        values["batch_size"] = 2  # norms need more than one image
    try:
        RetrainConfig(**values)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return values


def _check_out(out: Path, run: Path | None, overwrite: bool) -> None:
    """Raises ValueError for the run itself, and FileExistsError for a folder with something else than a training."""
    if run is not None and out.resolve() == run.resolve():
        raise ValueError(f"--out {out} is the run whose architecture is trained: give another folder")
    if not overwrite and not checkpoint_folder.holds_checkpoints(out / "checkpoints"):
        run_folder.require_empty(out)


def _run(
    config: RetrainConfig,
    architecture: Spec | str,
    out: Path,
    console: Console,
    overwrite: bool,
    track: Service | None,
    began: float,
) -> int:
    if started() > 1:
        raise ValueError(f"retraining runs in one process, and torchrun has started {started()}: start it with python")
    device = device_named(config.device)
    data = load_again(
        config, config.batch_size, config.seed, device, trained="train" if config.keep_validation else "joined"
    )
    config = settled(config, data)
    for note in (*data.notes, *class_weights.hints(config, data)):
        warn(note)
    spec, checkpoints, deadline = _spec(architecture, config, data), out / "checkpoints", None
    channels = spec.stem_channels if isinstance(spec, NetworkSpec) else spec.channels
    watching = set_threads(config.threads, config.batch_size * data.image_size**2 * channels)
    goes_on = checkpoint_folder.holds_checkpoints(checkpoints) and not overwrite
    try:
        if config.seconds is not None and not goes_on:
            deadline = _deadline(config.seconds, began, config, spec, data, device)
        state = TrainingState(config, spec, data, device)
    except (RuntimeError, MemoryError) as error:  # of an architecture that is larger than the memory
        raise ValueError(f"the network cannot be built: {str(error).splitlines()[0]}") from error
    if deadline:
        state.deadline = deadline
        state.plan_again(deadline.plan(state.phases))
        told = f"planned for {clock(deadline.seconds)}, by a few steps: {state.epochs} epochs"
        console.print(told, soft_wrap=True)
    if overwrite:
        run_folder.clear(out)
    if goes_on:
        path, saved = checkpoint_folder.load_newest(checkpoints, warn)
        try:
            state.load_state_dict(saved)
        except Exception as error:  # the file is whole, but not what a training wrote
            raise CheckpointError(f"cannot go on from {path}: {error}") from error
        steps = f" and {state.progress.step} steps" if state.progress.step else ""
        console.print(f"going on after {state.progress.epoch} of {state.epochs} epochs{steps}", soft_wrap=True)
    operations = ", ".join(state.network.operations)
    joined = "" if config.keep_validation else ", the validation images among them (--keep_validation keeps them apart)"
    console.print(f"{out}: {len(state.images)} training images{joined}; {operations}", soft_wrap=True)
    for sentence in filter(None, (data.resizing, data.storage)):
        console.print(sentence, soft_wrap=True)
    screen, metrics = RetrainingConsole(console), MetricsObserver(out / "metrics.jsonl")
    report = ReportObserver(out, warn)
    retrainer = Retrainer(state, out, [screen, metrics, SettingsObserver(out), report, *watching])
    if tracker := tracking.begin(track, out, state.settings, goes_on=goes_on):
        retrainer.observers.append(tracker)
        console.print(f"{tracker.service}: {tracker.place}", soft_wrap=True)
    same = f"the same command with --out {out}"
    try:
        retrainer.save("last")  # from here on the training can go on, whenever it ends
        write_settings(out, state.settings)
        if tracker:
            tracking.remember(tracker, out)
        metrics.restore(state.history)
        with report.to_the_end(state), closing(tracker) if tracker else nullcontext():
            with stopping_on_signals(state.stop, same), closing(screen):
                retrainer.run()
            summary = _write_result(state, data, out)
            if tracker:
                tracker.result(summary)
    except InterruptedRunError as interruption:
        console.print(f"{interruption}; {same} goes on from there", soft_wrap=True)
        return 128 + interruption.signal
    except Exception as error:
        if (what := refused(error)) is None:
            raise
        raise CheckpointError(f"{what}. When that is mended, {same} goes on from its last checkpoint") from error
    size, place = f"{costs.kilobytes(summary['size'])} kB", Target.of(config)
    console.print(f"{summary['parameters']:,} parameters, {summary['flops']:,} FLOPs an image, {size}", soft_wrap=True)
    if timed := summary["latency"]:
        console.print(f"latency {timed['milliseconds']:.3g} ms ({place.words})", soft_wrap=True)
    else:
        warn(f"the latency is not measured: {place.unusable}")
    console.print(f"test accuracy {summary['test_accuracy']:.2%}; results in {out}", soft_wrap=True)
    return 0


def _deadline(
    seconds: float, began: float, config: RetrainConfig, spec: Spec, data: Data, device: torch.device
) -> Deadline:
    """Times a few steps of the training, which is to end `seconds` after `began` (time.monotonic)."""
    epoch = seconds_per_epoch(config, spec, data, device)
    images = data.train if config.keep_validation else data.joined.train
    tested = data.test.num_batches() * FORWARD * epoch / images.num_batches()
    return Deadline(seconds, AFTER + tested, {PHASE: config.epochs}, {PHASE: 1}, {PHASE: epoch}, began=began)


def _write_result(state: TrainingState, data: Data, out: Path) -> Record:
    """Reads the test images, once, and writes network and summary. Returns the latter."""
    network, last = pruned(state.result.eval()), state.history[-1]
    answers = state.answers()
    record = recorded(answers, data)
    size = derived.save(out, network, classes=data.classes, mean=data.mean, std=data.std, image_size=data.image_size)
    valid = {"valid": len(data.valid)} if state.config.keep_validation else {}
    summary = {
        "version": __version__,
        "torch": torch.__version__,
        "device": str(state.device),
        "threads": torch.get_num_threads(),
        "test_accuracy": answers.accuracy,
        "valid_accuracy": last.get("valid_accuracy"),
        "train_accuracy": last["train_accuracy"],
        "images": {"train": len(state.images), **valid, "test": len(data.test)},
        "operations": list(network.operations),
        "parameters": sum(p.numel() for p in network.parameters()),
        "flops": cost_of(network.spec, data.image_size).flops,
        "size": size,
        "latency": latency(network.spec, data.image_size, Target.of(state.config)),
        "seconds": sum(record["seconds"] for record in state.history),
        "settings": state.settings,
        "per_class": [of_class.to_dict() for of_class in record.per_class],
    }
    record.save(out)
    write_json(out / "summary.json", summary)
    return summary


def _tell(genotype: Path, out: Path) -> None:
    """Has the run of the architecture remember the training, and its report show it.

    Whatever fails here is a warning: the training is done.
    """
    run = retrained.run_of(genotype)
    if run is None:
        return
    try:
        from asose_fast.report import page
        from asose_fast.report.run import read

        retrained.remember(run, out)
        require_own([run / "report.html"])
        write_atomically(run / "report.html", page.render(read(run)).encode(errors="replace"))
    except Exception as error:
        warn(f"the report of {run} does not show this training: {error}")


if __name__ == "__main__":
    sys.exit(main())
