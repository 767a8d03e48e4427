"""What `compare` and `front` have in common: networks of a finished run are trained from scratch, alike.

They are trained as the run trains what it finds, and on its images. Killed and called again, the command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

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
from asose_fast.engine.comparison.training import seconds_per_epoch, train, training_config
from asose_fast.engine.device import device_named
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
from asose_fast.space.latency import Target
from asose_fast.space.network import NetworkSpec
from asose_fast.store import derived, run_folder
from asose_fast.store.checkpoint import write_atomically, write_json

T = TypeVar("T")
PART = 3
"""By default a training has one epoch for so many with which the run trains what it finds."""
COLUMNS = {"test": 21, "parameters": 12, "MFLOPs": 8, "kB": 9, "ms": 14, "seconds": 7}
"""The line of a network has these values, each so wide, between its name and its operations."""


class Searched(NamedTuple):
    """A finished run, as far as its networks are trained again."""

    config: Config
    found: NetworkSpec
    """The derived network, without blocks that compute nothing."""
    space: NetworkSpec
    """The supernet that it was derived from."""
    data: Data
    device: torch.device

    @property
    def target(self) -> Target:
        """Returns where the run has timed its network, and where others are timed."""
        return Target(self.config.latency_device, self.config.latency_threads, self.config.latency_batch)

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


def folders(given: argparse.Namespace, folder: str) -> tuple[Path, Path]:
    """Returns the run and the folder to write. Raises ValueError where they are the same."""
    run = given_path(given.run)
    out = given_path(given.out or run / folder)
    if out.resolve() == run.resolve():
        raise ValueError(f"--out {out} is the run itself: give another folder")
    return run, out


def searched(run: Path, out: Path, given: argparse.Namespace, command: str) -> Searched:
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
    return Searched(config, found, searched_space(run, found, config.candidates), data, device)


def kept(out: Path, file: str, load: Callable[[Path], T], overwrite: bool) -> T | None:
    """Returns what an earlier call has left, unless that is to go. Raises FileExistsError for a folder of others."""
    if not (out / file).exists():
        run_folder.require_empty(out, "give another --out")
        return None
    return None if overwrite else load(out)


def clear(out: Path, file: str, names: Sequence[str]) -> None:
    """Removes what an earlier call has left: its record, and the folders of networks whose names match `names`."""
    (out / file).unlink(missing_ok=True)
    for folder in (folder for name in names for folder in out.glob(name)):
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


def require_same(
    out: Path,
    what: str,
    settings: tuple[dict[str, Any], dict[str, Any]],
    data: tuple[str, str],
    networks: tuple[Sequence[Any], Sequence[Any]],
) -> None:
    """Raises ValueError where an earlier call has begun something else: the pairs are of it and of this call."""
    there, here = settings
    unlike = differences(Config.completed(there, here), here)
    if data[0] != data[1]:
        unlike.append("its images are others")
    if networks[0] != networks[1]:
        unlike.append("its networks are others")
    if unlike:
        raise ValueError(
            f"{out} holds another {what}: {'; '.join(unlike)}. Give the same options, another --out, or "
            "--overwrite to begin anew"
        )


def train_left(
    names: Sequence[str],
    specs: Sequence[NetworkSpec],
    done: Sequence[Trained],
    settings: RetrainConfig,
    searched: Searched,
    target: Target,
    out: Path,
    console: Console,
    keep: Callable[[Trained], None],
) -> None:
    """Trains what is not trained yet, each network in a folder of its own, with a line for each.

    `keep` is told of every network when it is trained. Raises InterruptedRunError.
    """
    images = len(searched.data.test)
    console.print(_aligned("network", COLUMNS, "operations"), soft_wrap=True)
    for network in done:
        console.print(_line(network, images), soft_wrap=True)
    for name, spec in list(zip(names, specs, strict=True))[len(done) :]:
        with closing(RetrainingConsole(console, lines=False)) as bar:
            network = train(name, spec, settings, searched.data, searched.device, out / name, [bar], warn, target)
        keep(network)
        console.print(_line(network, images), soft_wrap=True)


def _line(network: Trained, test_images: int) -> str:
    values = [*costs.worded(network, test_images), f"{network.seconds:.0f}"]
    return _aligned(network.name, values, ", ".join(network.operations))


def _aligned(name: str, values: Iterable[str], operations: str) -> str:
    aligned = (f"{value:>{width}}" for value, width in zip(values, COLUMNS.values(), strict=True))
    return "  ".join([f"{name:<10}", *aligned, operations])


def tell(
    run: Path, out: Path, folder: str, name: str, sentences: Sequence[str], networks: Sequence[dict[str, Any]]
) -> str:
    """Has the run's summary and report say what came out, where `out` is `folder` of the run.

    The summary has the sentences as `name`, and the networks beside them.
    Returns where the results are, in words.
    """
    told = f"results in {out}"
    if out.resolve() != (run / folder).resolve() or not (run / "summary.json").exists():
        return told
    path = run / "report.html"
    try:
        summary = files.read_json(run / "summary.json")
        write_json(run / "summary.json", {**summary, name: list(sentences), f"{name}_networks": list(networks)})
    except (ValueError, TypeError) as error:
        warn(f"the summary of the run does not say it: {error}")
    try:
        require_own([path])
    except FileExistsError as error:
        warn(f"the report of the run is not written: {error}")
        return told
    write_atomically(path, page.render(read(run)).encode(errors="replace"))
    return f"{told}, and in {path}"
