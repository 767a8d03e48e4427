"""Says whether a search was worth it, beside random networks and a plain one of its size.

All are trained from scratch, alike: as RUN trains what it finds, and on its images. Killed and called again with the
same options, or with a larger --random, it goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from asose_fast import files
from asose_fast.bounds import MOST_EPOCHS, Bounds, check_value
from asose_fast.command import Parser, command, warn
from asose_fast.config import Config
from asose_fast.data import Data
from asose_fast.data.place import load_again, moved, require_outside
from asose_fast.engine.comparison import record
from asose_fast.engine.comparison.networks import (
    plain_network,
    pruned_blocks,
    random_networks,
    searched_space,
)
from asose_fast.engine.comparison.record import MOST_RANDOM, Comparison, Trained
from asose_fast.engine.comparison.training import seconds_per_epoch, train, training_config
from asose_fast.engine.device import device_named
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.phases import plan
from asose_fast.engine.processes import started
from asose_fast.engine.resume import differences
from asose_fast.engine.retrainer import RetrainConfig
from asose_fast.engine.threads import set_threads
from asose_fast.observe.console import RetrainingConsole
from asose_fast.observe.forecast import clock
from asose_fast.paths import given_path
from asose_fast.report import page
from asose_fast.report.own import require_own
from asose_fast.report.run import read
from asose_fast.space.cost import cost_of
from asose_fast.space.network import NetworkSpec
from asose_fast.store import derived, run_folder
from asose_fast.store.checkpoint import write_atomically, write_json
from asose_fast.terminal import make_console

PART = 3
"""By default a training has one epoch for so many with which the run trains what it finds."""


class Searched(NamedTuple):
    """A finished run, as far as a comparison needs it."""

    config: Config
    found: NetworkSpec
    """The derived network, without blocks that compute nothing."""
    space: NetworkSpec
    """The supernet that it was derived from."""
    data: Data
    device: torch.device


@command
def main(arguments: Sequence[str]) -> int:
    """Trains, compares and prints. Returns the exit status: 0, 2 (error), 128 + signal."""
    given = _given(arguments)
    if started() > 1:
        raise ValueError(f"compare runs in one process, and torchrun has started {started()}: start it with python")
    run = given_path(given.run)
    out = given_path(given.out or run / record.FOLDER)
    if out.resolve() == run.resolve():
        raise ValueError(f"--out {out} is the run itself: give another folder")
    searched = _searched(run, out, given)
    console = make_console()
    with run_folder.claimed(out):
        kept = _kept(out, given.overwrite)
        comparison, settings, specs = _begin(searched, given, kept, console)
        if kept is None:
            _clear(out)
        else:
            _require_same(out, kept, comparison, specs)
            comparison.networks = kept.networks
        try:
            _train(comparison, settings, specs, searched, out, console)
        except InterruptedRunError as interruption:
            console.print(f"{interruption}; the same command goes on from there", soft_wrap=True)
            return 128 + interruption.signal
    for sentence in comparison.sentences:
        console.print(sentence, soft_wrap=True)
    told = ""
    if out.resolve() == (run / record.FOLDER).resolve() and (run / "summary.json").exists():
        told = _tell(run, comparison)
    console.print(f"results in {out}{told}", soft_wrap=True)
    return 0


def _given(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises ValueError for options out of bounds."""
    parser = Parser("compare", __doc__)
    parser.add_argument("run", metavar="RUN", help="The folder of a finished run in the space chain or stages.")
    parser.add_argument("--random", type=int, default=5, metavar="K", help="Random networks; default: %(default)s.")
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
    parser.add_argument("--out", metavar="FOLDER", help=f"The folder to write; default: RUN/{record.FOLDER}.")
    parser.add_argument("--overwrite", action="store_true", help="Begin the comparison anew that --out holds.")
    given = parser.parse_args(arguments)
    for name, kind, bounds in (
        ("random", int, Bounds(least=2, most=MOST_RANDOM)),
        ("epochs", int | None, Bounds(least=1, most=MOST_EPOCHS)),
        ("seconds", float | None, Bounds(above=0, most=1e9)),
        ("seed", int | None, Bounds(least=-(2**63), most=2**63 - 1)),
    ):
        check_value(f"--{name}", getattr(given, name), kind, bounds)
    if given.epochs is not None and given.seconds is not None:
        raise ValueError("--epochs and --seconds say in two ways how long a training is: leave one of them out")
    return given


def _searched(run: Path, out: Path, given: argparse.Namespace) -> Searched:
    """Raises OSError and ValueError for what is no finished run of blocks, or where its images are gone."""
    network = derived.load_genotype(run).network
    if not isinstance(network, NetworkSpec):
        raise ValueError(f"{run} holds a network of cells, and compare is for the spaces chain and stages")
    path = run / "config.yaml"
    try:
        config = Config.from_dict(files.read_settings(path))
    except ValueError as error:
        raise ValueError(f"{path} is not that of a search: {error}") from error
    config = dataclasses.replace(config, device=given.device or config.device)
    config = moved(config, given.dataset, given.data_root)
    require_outside(config, out)
    device = device_named(config.device)
    data = load_again(config, config.batch_size, config.seed, device, trained="joined")
    for note in data.notes:
        warn(note)
    set_threads(config, data.image_size)
    found = pruned_blocks(network)
    return Searched(config, found, searched_space(run, found, config.candidates), data, device)


def _kept(out: Path, overwrite: bool) -> Comparison | None:
    """Returns what an earlier call has left, unless that is to go. Raises FileExistsError for a folder of others."""
    if not (out / record.FILE).exists():
        run_folder.require_empty(out, "give another --out")
        return None
    return None if overwrite else record.load(out)


def _clear(out: Path) -> None:
    """Removes what an earlier call has left."""
    (out / record.FILE).unlink(missing_ok=True)
    for folder in (out / record.FOUND, out / record.PLAIN, *out.glob(f"{record.RANDOM}-*")):
        run_folder.clear(folder)


def _begin(
    searched: Searched, given: argparse.Namespace, kept: Comparison | None, console: Console
) -> tuple[Comparison, RetrainConfig, list[NetworkSpec]]:
    """Chooses the networks and the length of a training, and says what is to come."""
    config, found, space, data, device = searched
    seed = config.seed if given.seed is None else given.seed
    count, own = max(given.random, kept.random if kept else 0), cost_of(found, data.image_size)
    drawn, band = random_networks(space, found, data.image_size, count, seed)
    specs = [found, plain_network(own, data.channels, len(data.classes), data.image_size, found.stem_stride), *drawn]

    left = len(specs) - (len(kept.networks) if kept else 0)
    settings, longest = training_config(config, 1, seed), plan(config)[-1].epochs
    one = seconds_per_epoch(settings, found, data, device) if left else 0.0
    epochs: int = given.epochs or max(1, longest // PART)
    if given.seconds is not None:
        epochs = min(longest, max(1, int(given.seconds / (one * len(specs))))) if kept is None else kept.epochs
    settings, images = dataclasses.replace(settings, epochs=epochs), len(data.joined.train)
    console.print(
        f"{len(specs)} networks are trained from scratch alike, each on {images} images for {epochs} epochs, on "
        f"{device} with {torch.get_num_threads()} threads: "
        + (f"{left} are left, which take about {clock(left * one * epochs)}" if left else "all are trained already"),
        soft_wrap=True,
    )
    away = [100 * (of / mine - 1) for of, mine in zip(cost_of(specs[1], data.image_size), own, strict=True)]
    console.print(
        f"the found network has {own.parameters:,} parameters and {own.flops / 1e6:.2f} MFLOPs; the plain one nearest "
        f"in size has {away[0]:+.0f} % and {away[1]:+.0f} %; random ones are {band.words}{band.reason}",
        soft_wrap=True,
    )
    values, tests = dataclasses.asdict(settings), len(data.test)
    return Comparison(values, data.digest, count, band, found.to_dict(), images, tests), settings, specs


def _require_same(out: Path, kept: Comparison, comparison: Comparison, specs: list[NetworkSpec]) -> None:
    """Raises ValueError where an earlier call has begun something else."""
    unlike = differences(kept.settings, comparison.settings)
    if kept.data != comparison.data:
        unlike.append("its images are others")
    if kept.found != comparison.found or [network.network for network in kept.networks] != [
        spec.to_dict() for spec in specs[: len(kept.networks)]
    ]:
        unlike.append("its networks are others")
    if unlike:
        raise ValueError(
            f"{out} holds another comparison: {'; '.join(unlike)}. Give the same options, another --out, or "
            "--overwrite to begin anew"
        )


def _train(
    comparison: Comparison,
    settings: RetrainConfig,
    specs: list[NetworkSpec],
    searched: Searched,
    out: Path,
    console: Console,
) -> None:
    """Trains what is not trained yet, with a line for each network. Raises InterruptedRunError."""
    comparison.save(out)
    console.print(f"{'network':<10}  parameters    MFLOPs   seconds     test  operations", soft_wrap=True)
    for network in comparison.networks:
        console.print(_line(network), soft_wrap=True)
    names = record.names_of(comparison.random)
    for name, spec in list(zip(names, specs, strict=True))[len(comparison.networks) :]:
        with closing(RetrainingConsole(console, lines=False)) as bar:
            network = train(name, spec, settings, searched.data, searched.device, out / name, [bar], warn)
        comparison.networks.append(network)
        comparison.save(out)
        console.print(_line(network), soft_wrap=True)


def _line(network: Trained) -> str:
    return (
        f"{network.name:<10}  {network.parameters:10,}  {network.flops / 1e6:8.2f}  {network.seconds:8.0f}  "
        f"{record.percent(network.test_accuracy):>7}  {', '.join(network.operations)}"
    )


def _tell(run: Path, comparison: Comparison) -> str:
    """Has the run's summary and report say what came out. Returns what is said of that."""
    path = run / "report.html"
    try:
        summary = files.read_json(run / "summary.json")
        write_json(run / "summary.json", {**summary, "comparison": comparison.sentences})
    except (ValueError, TypeError) as error:
        warn(f"the summary of the run does not say it: {error}")
    try:
        require_own([path])
    except FileExistsError as error:
        warn(f"the report of the run is not written: {error}")
        return ""
    write_atomically(path, page.render(read(run)).encode(errors="replace"))
    return f", and in {path}"


if __name__ == "__main__":
    sys.exit(main())
