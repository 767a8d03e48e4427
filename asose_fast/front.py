"""Gives several networks of one search, from small ones to the found one, each trained.

The supernet of RUN chooses a network under each of several bounds, in several widths. All are trained from scratch,
alike: as RUN trains what it finds, and on its images. Accuracy, size and latency of each are said. Killed and called
again with the same options, it goes on where it was. Each network has a folder, which export, predict and retrain take.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from asose_fast import alike
from asose_fast.alike import Searched
from asose_fast.bounds import Bounds, check_value
from asose_fast.command import Parser, command
from asose_fast.engine.comparison.trained import Trained
from asose_fast.engine.front import record
from asose_fast.engine.front.networks import By, networks, supernet
from asose_fast.engine.front.record import Front
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.retrainer import RetrainConfig
from asose_fast.report import costs
from asose_fast.store import run_folder
from asose_fast.terminal import make_console

WIDTHS, POINTS = (1.0, 0.7, 0.5), 3


@command
def main(arguments: Sequence[str]) -> int:
    """Chooses, trains and prints. Returns the exit status: 0, 2 (error), 128 + signal."""
    given = _given(arguments)
    run, out = alike.folders(given, record.FOLDER)
    searched = alike.searched(run, out, given, "front")
    console = make_console()
    with run_folder.claimed(out):
        kept = alike.kept(out, record.FILE, record.load, given.overwrite)
        front, settings = _begin(run, searched, given, kept, console)
        if kept is None:
            alike.clear(out, record.FILE, [f"{record.NAME}-*"])
        else:
            _require_same(out, kept, front)
            front.networks = kept.networks
        try:
            _train(front, settings, searched, out, console)
        except InterruptedRunError as interruption:
            console.print(f"{interruption}; the same command goes on from there", soft_wrap=True)
            return 128 + interruption.signal
    for sentence in front.sentences:
        console.print(sentence, soft_wrap=True)
    networks = [costs.summary(one, front.test_images, front.target) for one in front.networks]
    console.print(alike.tell(run, out, record.FOLDER, "front", front.sentences, networks), soft_wrap=True)
    return 0


def _given(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises ValueError for options out of bounds."""
    parser = Parser("front", __doc__)
    parser.add_argument("run", metavar="RUN", help="The folder of a finished run in the space chain, stages or mobile.")
    parser.add_argument("--by", choices=get_args(By), default="flops", help="What is bounded; default: %(default)s.")
    parser.add_argument(
        "--widths",
        type=float,
        nargs="+",
        default=list(WIDTHS),
        metavar="X",
        help=f"Shares of the run's channels; default: {' '.join(f'{width:g}' for width in WIDTHS)}.",
    )
    parser.add_argument("--points", type=int, default=POINTS, metavar="N", help="For each width; default: %(default)s.")
    alike.add_options(parser, record.FOLDER)
    given = parser.parse_args(arguments)
    for width in given.widths:
        check_value("--widths", width, float, Bounds(above=0, most=16))
    check_value("--points", given.points, int, Bounds(least=2, most=100))
    alike.check_options(given, "front")
    return given


def _begin(
    run: Path, searched: Searched, given: argparse.Namespace, kept: Front | None, console: Console
) -> tuple[Front, RetrainConfig]:
    """Chooses the networks and the length of a training, and says what is to come.

    An earlier call has chosen them already, by latencies that would not be measured alike again.
    """
    config, size = searched.config, searched.data.image_size
    target = kept.target if kept else searched.target
    drawn = {"widths": given.widths, "points": given.points}
    if kept and (kept.by, kept.drawn) == (given.by, drawn):
        specs = kept.network_specs()
    else:
        chosen = supernet(run, config)
        specs = networks(chosen, searched.found, size, given.by, given.widths, given.points, target)
    done = len(kept.networks) if kept else 0
    epochs = kept.epochs if kept else None
    left = specs[done:]
    settings = alike.training(searched, given, len(specs), len(left), epochs, left, console)
    values, digest = dataclasses.asdict(settings), searched.data.digest
    told = [spec.to_dict() for spec in specs]
    return Front(values, digest, given.by, target, drawn, told, *searched.images), settings


def _require_same(out: Path, kept: Front, front: Front) -> None:
    """Raises ValueError where an earlier call has begun something else."""
    before, now = ([one.by, one.drawn, *one.specs] for one in (kept, front))
    alike.require_same(out, "front", (kept.settings, front.settings), (kept.data, front.data), (before, now))


def _train(front: Front, settings: RetrainConfig, searched: Searched, out: Path, console: Console) -> None:
    """Trains what is not trained yet. Raises InterruptedRunError."""
    specs = front.network_specs()

    def keep(network: Trained) -> None:
        if getattr(network, front.by) is None:
            raise ValueError(f"a front by {front.by} needs that of {network.name}; the same command measures it again")
        front.networks.append(network)
        front.save(out)

    front.save(out)
    done, names = list(front.networks), record.names_of(specs)
    alike.train_left(names, specs, done, settings, searched, front.target, out, console, keep)


if __name__ == "__main__":
    sys.exit(main())
