"""Searches, grows, derives and trains a network on images.

Every setting is an option. `torchrun` starts it in several processes, which share the work.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any, get_args

import torch
from jsonargparse import Namespace
from rich.console import Console

from asose_fast.command import EXIT_BREACH, command, failed, reason, warn
from asose_fast.config import Config
from asose_fast.data import load_data, settled
from asose_fast.data.config import own_images
from asose_fast.data.place import PLACES, absolute, load_again, moved, require_outside
from asose_fast.engine import resume
from asose_fast.engine.deadline import worded
from asose_fast.engine.device import device_named
from asose_fast.engine.health.diverged import SearchDivergedError
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.observer import Observer
from asose_fast.engine.processes import Processes, ProcessesDifferError, ProcessLostError, digest, together
from asose_fast.engine.recipe import class_weights
from asose_fast.engine.recipe.teacher import located
from asose_fast.engine.rehearsal import about, plan_for
from asose_fast.engine.result import write_result
from asose_fast.engine.resume import Resumable
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.engine.threads import set_threads
from asose_fast.engine.trainer import Trainer
from asose_fast.machine import refused
from asose_fast.observe import tracking
from asose_fast.observe.console import ConsoleObserver, health_table
from asose_fast.observe.forecast import clock
from asose_fast.observe.metrics import MetricsObserver
from asose_fast.observe.settings import SettingsObserver, write_settings
from asose_fast.observe.tensorboard import tensorboard
from asose_fast.observe.tracking import TRACK, Service
from asose_fast.options import SettingsParser
from asose_fast.paths import given_path
from asose_fast.presets import IMAGES
from asose_fast.program import spelled
from asose_fast.report.observer import ReportObserver
from asose_fast.space.latency import Target
from asose_fast.stopping import stopping_on_signals
from asose_fast.store import checkpoint_folder, run_folder
from asose_fast.store.checkpoint import CheckpointError
from asose_fast.terminal import ConsoleMode, make_console

OWN_IMAGES = """Searches a network on your own images. PHOTOS is a folder that holds train/<class>/, test/<class>/ and
maybe valid/<class>/, or <class>/ alone, of which 20 % become the test split. Or it is a .csv with the columns file,
label and maybe split. What follows is as in train."""


def parser(command: str = "train", description: str | None = __doc__, argument: str = "") -> SettingsParser:
    """The options of a run, as those of `command`, which may be given an `argument` that says where the images lie."""
    options = SettingsParser(command, description, argument)
    options.add_argument(
        "--out", type=str | None, metavar="FOLDER", help="The run folder to make; default: runs/<dataset>-<time>."
    )
    options.add_argument(
        "--resume",
        type=str | None,
        metavar="RUN",
        help="The run folder to go on with, under the settings it has; by default a run is begun. Where its images "
        f"have moved, {argument or '--dataset or --data_root'} says where to, and --teacher of its teacher. "
        "--optimize_epochs makes its last phase longer.",
    )
    rest = options.add_argument_group("command", "How a run begins, and what is printed.")
    rest.add_argument(
        "--resume_if_there",
        type=bool,
        default=False,
        help="Go on with the run that --out holds, which must have these settings; where there is none, begin it.",
    )
    rest.add_argument(
        "--overwrite",
        type=bool,
        default=False,
        help="Begin the run though --out is not empty, and replace what a run has left there.",
    )
    rest.add_argument(
        "--console",
        type=ConsoleMode,
        default="auto",
        help="auto: colours and a progress bar on a terminal; plain (or --plain): neither; quiet (or --quiet): only "
        "errors and warnings.",
    )
    rest.add_argument("--track", type=Service | None, default=None, help=TRACK)
    options.add_settings(Config)
    options.set_defaults(IMAGES)
    return options


def _with_console(words: Sequence[str]) -> list[str]:
    """--quiet and --plain, or --console and its value, as one word."""
    result: list[str] = []
    for word in words:
        if word in {f"--{mode}" for mode in get_args(ConsoleMode)[1:]}:
            word = f"--console={word[2:]}"
        if result and result[-1] == "--console":
            result[-1] += f"={word}"
        else:
            result.append(word)
    return result


@command
def main(arguments: Sequence[str]) -> int:
    """Runs or resumes a search. Returns the exit status: 0, 2 (error), 3 (--strict breach), 128 + signal."""
    options = parser()
    words = _with_console(options.words(arguments))
    return _lead(options.parse_args(words), words)


@command
def search(arguments: Sequence[str]) -> int:
    """`main` with a folder of images, the first argument, as its data set. A run that goes on needs none."""
    options = parser("search", OWN_IMAGES, "PHOTOS")
    options.hide("--dataset", "--data_root")
    words = _with_console(options.words(arguments))
    if any(word.partition("=")[0] == "--dataset" for word in words):
        options.error("the data set is PHOTOS: leave --dataset out")
    if words and not words[0].startswith("-"):
        dataset = own_images(str(Path(words[0])))
        words = [*words[1:], f"--dataset={dataset}"]  # last, for it holds whatever --config says
    elif not any(word.partition("=")[0] in ("-h", "--help", "--resume") for word in words):
        options.error("the first argument must be PHOTOS, a folder of images or a .csv of them, or --resume RUN")
    return _lead(options.parse_args(words), words)


def _lead(settings: Namespace, words: Sequence[str]) -> int:
    """From the options of this process, and their words, to the exit status of all."""
    speaker, checkpoints, began = "", None, time.monotonic()
    try:
        with together() as processes, ExitStack() as held:
            if processes.count > 1:
                speaker = f"process {processes.rank} of {processes.count}: "
            console = make_console(settings.console, speaks=processes.first)
            given = {name: value for name, value in settings.as_dict().items() if name not in ("console", "config")}
            processes.check_same({"command line": digest(repr(given).encode())}, "all must be given the same options")
            folder, config, resumable = processes.from_first(lambda: _begin(settings, words, held))
            checkpoints = folder / "checkpoints"
            try:
                status = _run(config, folder, resumable, settings.track, console, processes, began)
            except InterruptedRunError as interruption:
                console.print(f"{interruption}. To go on: {_command_to_resume(folder, processes)}", soft_wrap=True)
                status = 128 + interruption.signal
            processes.wait()  # torchrun ends the others when the first has ended
            return status
    except SearchDivergedError as error:
        return failed(f"{speaker}{error}{_kept(checkpoints)}")
    except (ProcessLostError, ProcessesDifferError) as error:
        return failed(f"{error}{_kept(checkpoints)}")
    except Exception as error:
        if (what := reason(error)) is None:
            raise
        return failed(f"{speaker}{what}")


def _kept(checkpoints: Path | None) -> str:
    if checkpoints is None or not checkpoint_folder.holds_checkpoints(checkpoints):
        return ""
    return f". The last good checkpoint is kept in {checkpoints}"


def _command_to_resume(folder: Path, processes: Processes) -> str:
    command = spelled("train", processes.local_count if processes.count > 1 else None)
    return f"{command} --resume {shlex.quote(str(folder))}"


def _begin(settings: Namespace, words: Sequence[str], held: ExitStack) -> tuple[Path, Config, Resumable | None]:
    """The run folder, which `held` claims, the settings and, of a run that goes on, what it goes on from."""
    if settings.resume is not None:
        given = {word.partition("=")[0][2:] for word in words if word.startswith("--")}
        if settings.config or given - {"resume", "console", "track", "optimize_epochs", "teacher", *PLACES}:
            raise ValueError(
                "--resume takes its settings from the run: give no other option, except --dataset, --data_root or "
                "--teacher where the images or the teacher have moved, and --optimize_epochs for a longer last phase"
            )
        folder = resume.folder_of(given_path(settings.resume))
        if checkpoint_folder.holds_checkpoints(folder / "checkpoints"):
            held.enter_context(run_folder.claimed(folder))
        return _resumed(folder, {name: settings[name] for name in given})
    values: dict[str, Any] = {f.name: settings[f.name] for f in dataclasses.fields(Config)}
    config = located(absolute(Config.from_dict(values)))
    if settings.resume_if_there and settings.out is None:
        raise ValueError("--resume_if_there needs --out FOLDER, the run to look for")
    if not settings.resume_if_there and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
        raise ValueError(
            "torchrun --max-restarts gives this command again after a failure: add --out FOLDER --resume_if_there, "
            "so that it goes on with its run"
        )
    if settings.out is None:
        name = f"{config.dataset.partition(':')[0]}-{time.strftime('%Y%m%d-%H%M%S')}"
        require_outside(config, Path("runs") / name)
        return held.enter_context(run_folder.claimed(Path("runs") / name, new=True)), config, None
    require_outside(config, given_path(settings.out))
    folder = held.enter_context(run_folder.claimed(given_path(settings.out)))
    if checkpoint_folder.holds_checkpoints(folder / "checkpoints"):
        if settings.resume_if_there:
            resumable = resume.read(folder, warn)
            resume.check_settings(folder, resumable.config)
            config = resume.as_begun(resumable.given, config)
            _check_same_settings(folder, resumable.given, config)
            return folder, resumable.planned(config), resumable
        if not settings.overwrite:
            raise ValueError(
                f"{folder} holds a run already: resume it with --resume {shlex.quote(str(folder))}, or give another "
                "--out, or --overwrite to replace it"
            )
    if not settings.overwrite:
        run_folder.require_empty(folder)
    return folder, config, None


def _resumed(folder: Path, given: dict[str, Any]) -> tuple[Path, Config, Resumable]:
    resumable = resume.read(folder, warn)
    resume.check_settings(folder, resumable.config)
    config = moved(resume.placed(folder, resumable.config), given.get("dataset"), given.get("data_root"))
    if given.get("teacher") and config.teacher:
        config = located(dataclasses.replace(config, teacher=given["teacher"]))
    elif "teacher" in given:
        raise ValueError(
            "the run has no teacher: leave --teacher out" if not config.teacher else "--teacher must be a path"
        )
    if "optimize_epochs" in given:
        config = resume.lengthened(config, given["optimize_epochs"])
    return folder, config, resumable


def _check_same_settings(folder: Path, there: Config, here: Config) -> None:
    if unlike := resume.differences(there.to_dict(), here.to_dict()):
        raise ValueError(f"{folder} holds a run of other settings: {'; '.join(unlike)}. Give another --out")


def _run(
    config: Config,
    folder: Path,
    resumable: Resumable | None,
    track: Service | None,
    console: Console,
    processes: Processes,
    began: float,
) -> int:
    if config.batch_size < processes.count:
        raise ValueError(f"batch_size {config.batch_size} leaves some of the {processes.count} processes without work")
    device = device_named(config.device, processes)
    if resumable is None and (why := Target.of(config).unusable):
        raise ValueError(why)
    load = load_data if resumable is None else load_again
    data = processes.one_first(lambda: load(config, config.batch_size, config.seed, device))
    config = settled(config, data)
    processes.open(device, config.process_timeout)
    processes.check_same({"data": data.digest}, "all must read the same images, of the same classes")
    for note in (*data.notes, *class_weights.hints(config, data)) if processes.first else ():
        warn(note)
    watching = set_threads(config.threads, config.batch_size * data.image_size**2 * config.channels, processes)
    screen, metrics = ConsoleObserver(console), MetricsObserver(folder / "metrics.jsonl")
    report = ReportObserver(folder, warn)
    shown = [screen, metrics, SettingsObserver(folder), report, *watching]
    observers: list[Observer] = shown if processes.first else []
    task = ImageTask(config, data, device)
    deadline = None
    if config.seconds is not None and resumable is None:
        deadline = plan_for(config.seconds, task, processes, began)
    state = SearchState(task, processes)
    state.deadline = deadline
    trainer, tracker = Trainer(state, folder, observers), None
    if processes.first:
        tracker = tracking.begin(track, folder, state.settings, goes_on=resumable is not None)
    if resumable is not None:
        resumable.restore(state, warn if processes.first else lambda _: None)
        done = f"{state.progress.epoch} of {state.epochs} epochs"
        console.print(f"resuming {folder} after {done} and {state.progress.step} steps", soft_wrap=True)
        if config.optimize_epochs != resumable.config.optimize_epochs:
            processes.from_first(lambda: run_folder.reopen(folder))
            trainer.save("last")  # from here on the run is the longer one
    else:
        processes.from_first(lambda: run_folder.clear(folder))
        trainer.save("last")  # from here on the run can be resumed, whenever it ends
        console.print(f"run folder: {folder}", soft_wrap=True)
        for message in state.shortcomings if processes.first else ():
            warn(message)
    processes.from_first(lambda: write_settings(folder, state.settings))
    processes.from_first(lambda: metrics.restore(state.history))
    if tracker:
        tracking.remember(tracker, folder)
        trainer.observers.append(tracker)
        console.print(f"{tracker.service}: {tracker.place}", soft_wrap=True)
    several = f"{processes.count} processes of " if processes.count > 1 else ""
    console.print(
        f"{config.dataset}: {len(data.train)} training, {len(data.valid)} validation, {len(data.test)} test images of "
        f"{len(data.classes)} classes; {device}, {several}{torch.get_num_threads()} threads",
        soft_wrap=True,
    )
    for sentence in filter(None, (data.resizing, data.storage)):
        console.print(sentence, soft_wrap=True)
    if deadline:
        planned = {phase.name: phase.epochs for phase in state.phases}
        told = f"planned for {clock(deadline.seconds)}, by a few steps of each kind: {worded(planned)}"
        console.print(told, soft_wrap=True)
    elif resumable is None and processes.count == 1 and (seconds := about(task)) is not None:
        console.print(f"the run takes about {clock(seconds)}, by a few steps of each kind", soft_wrap=True)
    try:
        if processes.first:
            trainer.observers += tensorboard(folder / "tensorboard", state.progress.epoch, warn)
        with (
            report.to_the_end(state) if processes.first else nullcontext(),
            closing(tracker) if tracker else nullcontext(),
        ):
            with stopping_on_signals(state.stop, _command_to_resume(folder, processes)), closing(screen):
                trainer.run()
            summary = write_result(state, data, folder)
            if tracker:
                tracker.result(summary)
    except Exception as error:
        if (what := refused(error)) is None:
            raise
        raise CheckpointError(f"{what}. When that is mended: {_command_to_resume(folder, processes)}") from error
    console.print(health_table(summary["health"]))
    console.print(f"operations: {', '.join(summary['operations'])}", soft_wrap=True)
    if left_out := summary["left_out"]:
        named = ", ".join(str(block + 1) for block in left_out)  # which the report counts from 1 too
        console.print(f"left out, since a skip_connect alone computes nothing: block {named}", soft_wrap=True)
    for sentence in summary["advice"] if processes.first else ():
        warn(sentence)
    target = state.task.budget.target
    if latency := summary["latency"]:
        predicted = "" if latency["predicted"] is None else f", {latency['predicted']:.3g} ms were predicted"
        console.print(f"latency {latency['milliseconds']:.3g} ms ({target.words}){predicted}")
    elif processes.first:
        warn(f"the latency is not measured: {target.unusable}")
    seconds = sum(phase["seconds"] for phase in summary["phases"].values())
    if not state.validates:
        said = "there is no validation accuracy: the network was trained on these images too, to the last epoch"
        console.print(said, soft_wrap=True)
    console.print(
        f"test accuracy {summary['test_accuracy']:.2%} (derived network, {summary['parameters']:,} parameters); "
        f"{seconds:.0f} s of training; results in {folder}",
        soft_wrap=True,
    )
    breached = [item["name"] for item in summary["health"] if not item["ok"]]
    if config.strict and breached:
        if processes.first:
            failed(f"--strict: out of bounds at the end of the search: {', '.join(breached)}")
        return EXIT_BREACH
    return 0


if __name__ == "__main__":
    sys.exit(main())
