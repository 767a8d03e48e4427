"""Says whether a search was worth it, beside random networks and a plain one of its size.

All are trained from scratch, alike: as RUN trains what it finds, and on its images. Killed and called again with the
same options, or with a larger --random, it goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence

from rich.console import Console

from asose_fast import alike
from asose_fast.alike import Searched
from asose_fast.bounds import Bounds, check_value
from asose_fast.command import Parser, command
from asose_fast.engine.comparison import record
from asose_fast.engine.comparison.networks import plain_network, random_networks
from asose_fast.engine.comparison.record import MOST_RANDOM, Comparison
from asose_fast.engine.retrainer import RetrainConfig
from asose_fast.space.cost import cost_of
from asose_fast.space.network import NetworkSpec


@command
def main(arguments: Sequence[str]) -> int:
    """Trains, compares and prints. Returns the exit status: 0, 2 (error), 128 + signal."""
    given = _given(arguments)
    return alike.carry_out(record.FOLDER, given, record.load, functools.partial(_begin, given))


def _given(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises ValueError for options out of bounds."""
    parser = Parser("compare", __doc__)
    parser.add_argument("run", metavar="RUN", help="The folder of a finished run in the space chain, stages or mobile.")
    parser.add_argument("--random", type=int, default=5, metavar="K", help="Random networks; default: %(default)s.")
    alike.add_options(parser, record.FOLDER)
    given = parser.parse_args(arguments)
    check_value("--random", given.random, int, Bounds(least=2, most=MOST_RANDOM))
    alike.check_options(given, "compare")
    return given


def _begin(
    given: argparse.Namespace, searched: Searched, kept: Comparison | None, console: Console
) -> tuple[Comparison, RetrainConfig, list[NetworkSpec]]:
    """Chooses the networks and the length of a training, and says what is to come."""
    _, config, found, space, data, _ = searched
    seed = config.seed if given.seed is None else given.seed
    count, own = max(given.random, kept.random if kept else 0), cost_of(found, data.image_size)
    drawn, band = random_networks(space, found, data.image_size, count, seed)
    specs = [found, plain_network(own, data.channels, len(data.classes), data.image_size, found.stem_stride), *drawn]
    trained, epochs = (len(kept.networks), kept.epochs) if kept else (0, None)
    left = len(specs) - trained
    settings = alike.training(searched, given, len(specs), left, epochs, [found], console)
    away = [100 * (of / mine - 1) for of, mine in zip(cost_of(specs[1], data.image_size), own, strict=True)]
    console.print(
        f"the found network has {own.parameters:,} parameters and {own.flops / 1e6:.2f} MFLOPs; the plain one nearest "
        f"in size has {away[0]:+.0f} % and {away[1]:+.0f} %; random ones are {band.words}{band.reason}",
        soft_wrap=True,
    )
    trained_on, tested_on = searched.images
    comparison = Comparison(
        settings=dataclasses.asdict(settings),
        data=data.digest,
        images=trained_on,
        test_images=tested_on,
        random=count,
        band=band,
        found=found.to_dict(),
    )
    return comparison, settings, specs


if __name__ == "__main__":
    sys.exit(main())
