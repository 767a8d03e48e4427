"""Gives several networks of one search, from small ones to the found one, each trained.

The supernet of RUN chooses a network under each of several bounds, in several widths. All are trained from scratch,
alike: as RUN trains what it finds, and on its images. Accuracy, size and latency of each are said. Killed and called
again with the same options, it goes on where it was. Each network has a folder, which export, predict and retrain take.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import get_args

from rich.console import Console

from asose_fast import alike
from asose_fast.alike import Searched
from asose_fast.bounds import Bounds, check_value
from asose_fast.command import Parser, command
from asose_fast.engine.front import record
from asose_fast.engine.front.networks import By, networks, supernet
from asose_fast.engine.front.record import Front
from asose_fast.engine.retrainer import RetrainConfig
from asose_fast.space.latency import Target
from asose_fast.space.network import NetworkSpec

WIDTHS, POINTS = (1.0, 0.7, 0.5), 3


@command
def main(arguments: Sequence[str]) -> int:
    """Chooses, trains and prints. Returns the exit status: 0, 2 (error), 128 + signal."""
    given = _given(arguments)
    return alike.carry_out(record.FOLDER, given, record.load, functools.partial(_begin, given))


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
    given: argparse.Namespace, searched: Searched, kept: Front | None, console: Console
) -> tuple[Front, RetrainConfig, list[NetworkSpec]]:
    """Chooses the networks and the length of a training, and says what is to come.

    An earlier call has chosen them already, by latencies that would not be measured alike again.
    """
    config, size = searched.config, searched.data.image_size
    drawn = {"widths": given.widths, "points": given.points}
    if kept and (kept.by, kept.drawn) == (given.by, drawn):
        specs = kept.network_specs()
    else:
        chosen, target = supernet(searched.run, config), Target.of(config)
        specs = networks(chosen, searched.found, size, given.by, given.widths, given.points, target)
    left, epochs = specs[len(kept.networks) if kept else 0 :], kept.epochs if kept else None
    settings = alike.training(searched, given, len(specs), len(left), epochs, left, console)
    trained_on, tested_on = searched.images
    front = Front(
        settings=dataclasses.asdict(settings),
        data=searched.data.digest,
        images=trained_on,
        test_images=tested_on,
        by=given.by,
        drawn=drawn,
        specs=[spec.to_dict() for spec in specs],
    )
    return front, settings, specs


if __name__ == "__main__":
    sys.exit(main())
