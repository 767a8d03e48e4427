"""What `compare` and `front` have in common: networks of a finished run are trained from scratch, alike.

They are trained as the run trains what it finds, and on its images. Killed and called again, the command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from rich.console import Console

from asose_fast import files
from asose_fast.bounds import MOST_EPOCHS, Bounds, check_value
from asose_fast.command import Parser, warn
from asose_fast.config import Config
from asose_fast.data import Data
from asose_fast.data.place import load_again, moved, require_outside
from asose_fast.engine.comparison.networks import pruned_blocks, searched_space
from asose_fast.engine.comparison.trained import Trained
from asose_fast.engine.comparison.training import completed, seconds_per_epoch, train, training_config
from asose_fast.engine.comparison.trainings import Trainings
from asose_fast.engine.device import device_named
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.phases import plan
from asose_fast.engine.processes import started
from asose_fast.engine.recipe.teacher import located
from asose_fast.engine.resume import differences
from asose_fast.engine.retrainer import RetrainConfig
from asose_fast.engine.threads import set_threads
from asose_fast.observe.console import RetrainingConsole
from asose_fast.observe.forecast import clock
from asose_fast.paths import given_path
from asose_fast.report import costs, page
from asose_fast.report.own import require_own
from asose_fast.report.run import read
from asose_fast.space.network import NetworkSpec
from asose_fast.store import derived, run_folder
from asose_fast.store.checkpoint import write_atomically, write_json
from asose_fast.terminal import make_console

R = TypeVar("R", bound=Trainings)
PART = 3
"""By default a training has one epoch for so many with which the run trains what it finds."""
COLUMNS = {"test": 21, "parameters": 12, "MFLOPs": 8, "kB": 9, "ms": 14, "seconds": 7}
"""The line of a network has these values, each so wide, between its name and its operations."""


class Searched(NamedTuple):
    """A finished run, as far as its networks are trained again."""

    run: Path
    """Its folder."""
    config: Config
    found: NetworkSpec
    """The derived network, without blocks that compute nothing."""
    space: NetworkSpec
    """The supernet that it was derived from."""
    data: Data
    device: torch.device

    @property
    def images(self) -> tuple[int, int]:
        """Returns how many images a network is trained on, and how many it is tested on."""
        return len(self.data.joined.train), len(self.data.test)


def add_options(parser: Parser, folder: str) -> None:
    """Adds what a user may say of the trainings, whose results lie in `folder` of the run."""
    parser.add_argument(
        "--epochs", type=int, metavar="N", help=f"Of each training; default: 1/{PART} of the run's phase optimize."
    )
    parser.add_argument(
        "--seconds", type=float, metavar="X", help="As many epochs, up to those of the run, as fit into this in all."
    )
    parser.add_argument("--seed", type=int, metavar="N", help="Of drawing and training; default: that of the run.")
    parser.add_argument("--device", metavar="TEXT", help="cpu, cuda, cuda:N or auto; default: as in the run.")
    parser.add_argument("--dataset", metavar="TEXT", help="imagefolder:PATH or csv:PATH; default: as in the run.")
    parser.add_argument("--data_root", metavar="FOLDER", help="Where downloaded sets are kept; default: as in the run.")
    parser.add_argument("--teacher", metavar="PATH", help="Where the run's teacher lies; default: where it lay.")
    parser.add_argument("--out", metavar="FOLDER", help=f"The folder to write; default: RUN/{folder}.")
    parser.add_argument("--overwrite", action="store_true", help="Begin anew what --out holds.")


def check_options(given: argparse.Namespace, command: str) -> None:
    """Raises ValueError for options out of bounds, and where torchrun has begun several processes."""
    for name, kind, bounds in (
        ("epochs", int | None, Bounds(least=1, most=MOST_EPOCHS)),
        ("seconds", float | None, Bounds(above=0, most=1e9)),
        ("seed", int | None, Bounds(least=-(2**63), most=2**63 - 1)),
    ):
        check_value(f"--{name}", getattr(given, name), kind, bounds)
    if given.epochs is not None and given.seconds is not None:
        raise ValueError("--epochs and --seconds say in two ways how long a training is: leave one of them out")
    if started() > 1:
        raise ValueError(f"{command} runs in one process, and torchrun has started {started()}: start it with python")


def carry_out(
    command: str,
    given: argparse.Namespace,
    load: Callable[[Path], R],
    begin: Callable[[Searched, R | None, Console], tuple[R, RetrainConfig, list[NetworkSpec]]],
) -> int:
    """Trains the networks of a command, tells the run and prints. Returns the exit status: 0, or 128 + signal.

    Args:
        command: its name, which is that of its folder in a run too.
        load: reads what an earlier call has left.
        begin: chooses the networks, by what an earlier call has left, and the settings of a training.
    """
    run, out = _folders(given, command)
    searched = _searched(run, out, given, command)
    console = make_console()
    with run_folder.claimed(out):
        kept = _kept(out, f"{command}.json", load, given.overwrite)
        record, settings, specs = begin(searched, kept, console)
        if kept is None:
            _clear(out, record)
        else:
            _require_same(out, kept, record, specs)
            record.networks = kept.networks
        try:
            _train_left(record, specs, settings, searched, out, console)
        except (InterruptedRunError, KeyboardInterrupt) as stopped:  # the latter between two trainings
            number = stopped.signal if isinstance(stopped, InterruptedRunError) else signal.SIGINT
            said = str(stopped) or f"stopped by {number.name}"
            console.print(f"{said}; the same command goes on from there", soft_wrap=True)
            return 128 + number
    for sentence in record.sentences:
        console.print(sentence, soft_wrap=True)
    console.print(_tell(run, out, command, record), soft_wrap=True)
    return 0


def _folders(given: argparse.Namespace, folder: str) -> tuple[Path, Path]:
    """Returns the run and the folder to write. Raises ValueError where they are the same."""
    run = given_path(given.run)
    out = given_path(given.out or run / folder)
    if out.resolve() == run.resolve():
        raise ValueError(f"--out {out} is the run itself: give another folder")
    return run, out


def _searched(run: Path, out: Path, given: argparse.Namespace, command: str) -> Searched:
    """Raises OSError and ValueError for what is no finished run of blocks, or where its images are gone."""
    network = derived.load_genotype(run).network
    if not isinstance(network, NetworkSpec):
        raise ValueError(f"{run} holds a network of cells, and {command} is for the spaces chain, stages and mobile")
    path = run / "config.yaml"
    try:
        config = Config.from_dict(files.read_settings(path))
    except ValueError as error:
        raise ValueError(f"{path} is not that of a search: {error}") from error
    config = dataclasses.replace(config, device=given.device or config.device)
    if given.teacher is not None:
        config = located(dataclasses.replace(config, teacher=given.teacher))
    config = moved(config, given.dataset, given.data_root)
    require_outside(config, out)
    device = device_named(config.device)
    data = load_again(config, config.batch_size, config.seed, device, trained="joined")
    for note in data.notes:
        warn(note)
    set_threads(config.threads, config.batch_size * data.image_size**2 * config.channels)
    found = pruned_blocks(network)
    return Searched(run, config, found, searched_space(run, found, config.candidates), data, device)


def _kept(out: Path, file: str, load: Callable[[Path], R], overwrite: bool) -> R | None:
    """Returns what an earlier call has left, unless that is to go. Raises FileExistsError for a folder of others."""
    if not (out / file).exists():
        run_folder.require_empty(out, "give another --out")
        return None
    return None if overwrite else load(out)


def _clear(out: Path, record: Trainings) -> None:
    """Removes what an earlier call has left: its file, and the folders of its networks."""
    (out / record.FILE).unlink(missing_ok=True)
    for folder in (folder for pattern in record.FOLDERS for folder in out.glob(pattern)):
        run_folder.clear(folder)


def training(
    searched: Searched,
    given: argparse.Namespace,
    total: int,
    left: int,
    kept_epochs: int | None,
    samples: Sequence[NetworkSpec],
    console: Console,
) -> RetrainConfig:
    """Chooses how long a training is, and says how long all that are left take.

    Args:
        total: so many networks there are.
        left: so many of them are not trained yet.
        kept_epochs: of an earlier call; None where there was none.
        samples: an epoch takes as long as their mean, of a few steps each.
    """
    config = searched.config
    settings = training_config(config, 1, config.seed if given.seed is None else given.seed)
    longest, one = plan(config)[-1].epochs, 0.0
    if left:
        times = (seconds_per_epoch(settings, spec, searched.data, searched.device) for spec in samples)
        one = statistics.fmean(times)
    epochs: int = given.epochs or max(1, longest // PART)
    if given.seconds is not None:
        epochs = kept_epochs or min(longest, max(1, int(given.seconds / (one * total))))
    console.print(
        f"{total} networks are trained from scratch alike, each on {searched.images[0]} images for {epochs} "
        f"epochs, on {searched.device} with {torch.get_num_threads()} threads: "
        + (f"{left} are left, which take about {clock(left * one * epochs)}" if left else "all are trained already"),
        soft_wrap=True,
    )
    return dataclasses.replace(settings, epochs=epochs)


def _require_same(out: Path, kept: Trainings, record: Trainings, specs: Sequence[NetworkSpec]) -> None:
    """Raises ValueError where an earlier call has begun something else."""
    unlike = differences(Config.completed(kept.settings, record.settings), record.settings)
    if kept.data != record.data:
        unlike.append("its images are others")
    trained = [network.network for network in kept.networks]
    if kept.asked != record.asked or trained != [spec.to_dict() for spec in specs[: len(trained)]]:
        unlike.append("its networks are others")
    if unlike:
        raise ValueError(
            f"{out} holds another {record.WHAT}: {'; '.join(unlike)}. Give the same options, another --out, or "
            "--overwrite to begin anew"
        )


def _train_left(
    record: Trainings,
    specs: Sequence[NetworkSpec],
    settings: RetrainConfig,
    searched: Searched,
    out: Path,
    console: Console,
) -> None:
    """Trains what is not trained yet, each network in a folder of its own, with a line for each. Measures what an
    older release has not measured.

    Raises InterruptedRunError.
    """
    data, target = searched.data, record.target
    record.networks = [completed(one, out / one.name, data.image_size, target, warn) for one in record.networks]
    record.save(out)
    console.print(_aligned("network", COLUMNS, "operations"), soft_wrap=True)
    for network in record.networks:
        console.print(_line(network, len(data.test)), soft_wrap=True)
    for name, spec in list(zip(record.names, specs, strict=True))[len(record.networks) :]:
        with closing(RetrainingConsole(console, lines=False)) as bar:
            network = train(name, spec, settings, data, searched.device, out / name, [bar], warn, target)
        record.keep(network)
        record.save(out)
        console.print(_line(network, len(data.test)), soft_wrap=True)


def _line(network: Trained, test_images: int) -> str:
    values = [*costs.worded(network, test_images), f"{network.seconds:.0f}"]
    return _aligned(network.name, values, ", ".join(network.operations))


def _aligned(name: str, values: Iterable[str], operations: str) -> str:
    aligned = (f"{value:>{width}}" for value, width in zip(values, COLUMNS.values(), strict=True))
    return "  ".join([f"{name:<10}", *aligned, operations])


def _tell(run: Path, out: Path, command: str, record: Trainings) -> str:
    """Has the run's summary and report say what came out, where `out` is the command's folder of the run.

    Returns where the results are, in words.
    """
    told = f"results in {out}"
    if out.resolve() != (run / command).resolve() or not (run / "summary.json").exists():
        return told
    path = run / "report.html"
    networks = [costs.summary(one, record.test_images, record.target) for one in record.networks]
    try:
        summary = files.read_json(run / "summary.json")
        said = {record.WHAT: record.sentences, f"{record.WHAT}_networks": networks}
        write_json(run / "summary.json", {**summary, **said})
    except (ValueError, TypeError) as error:
        warn(f"the summary of the run does not say it: {error}")
    try:
        require_own([path])
    except FileExistsError as error:
        warn(f"the report of the run is not written: {error}")
        return told
    write_atomically(path, page.render(read(run)).encode(errors="replace"))
    return f"{told}, and in {path}"
