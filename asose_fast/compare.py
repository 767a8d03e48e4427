"""Says whether a search was worth it, beside random networks and a plain one of its size.

All are trained from scratch, alike: as RUN trains what it finds, and on its images. Killed and called again with the
same options, or with a larger --random, it goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from asose_fast import alike
from asose_fast.alike import Searched
from asose_fast.bounds import Bounds, check_value
from asose_fast.command import Parser, command
from asose_fast.engine.comparison import record
from asose_fast.engine.comparison.networks import plain_network, random_networks
from asose_fast.engine.comparison.record import MOST_RANDOM, Comparison
from asose_fast.engine.comparison.trained import Trained
from asose_fast.engine.loop import InterruptedRunError
from asose_fast.engine.retrainer import RetrainConfig
from asose_fast.report import costs
from asose_fast.space.cost import cost_of
from asose_fast.space.network import NetworkSpec
from asose_fast.store import run_folder
from asose_fast.terminal import make_console


@command
def main(arguments: Sequence[str]) -> int:
    """Trains, compares and prints. Returns the exit status: 0, 2 (error), 128 + signal."""
    given = _given(arguments)
    run, out = alike.folders(given, record.FOLDER)
    searched = alike.searched(run, out, given, "compare")
    console = make_console()
    with run_folder.claimed(out):
        kept = alike.kept(out, record.FILE, record.load, given.overwrite)
        comparison, settings, specs = _begin(searched, given, kept, console)
        if kept is None:
            alike.clear(out, record.FILE, [record.FOUND, record.PLAIN, f"{record.RANDOM}-*"])
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
    networks = [costs.summary(one, comparison.test_images, comparison.target) for one in comparison.networks]
    told = alike.tell(run, out, record.FOLDER, "comparison", comparison.sentences, networks)
    console.print(told, soft_wrap=True)
    return 0


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
    searched: Searched, given: argparse.Namespace, kept: Comparison | None, console: Console
) -> tuple[Comparison, RetrainConfig, list[NetworkSpec]]:
    """Chooses the networks and the length of a training, and says what is to come."""
    config, found, space, data, _ = searched
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
    values = dataclasses.asdict(settings)
    target = kept.target if kept and kept.target else searched.target
    return Comparison(values, data.digest, count, band, found.to_dict(), *searched.images, target), settings, specs


def _require_same(out: Path, kept: Comparison, comparison: Comparison, specs: list[NetworkSpec]) -> None:
    """Raises ValueError where an earlier call has begun something else."""
    before = [kept.found, *(network.network for network in kept.networks)]
    now = [comparison.found, *(spec.to_dict() for spec in specs[: len(kept.networks)])]
    digests = (kept.data, comparison.data)
    alike.require_same(out, "comparison", (kept.settings, comparison.settings), digests, (before, now))


def _train(
    comparison: Comparison,
    settings: RetrainConfig,
    specs: list[NetworkSpec],
    searched: Searched,
    out: Path,
    console: Console,
) -> None:
    """Trains what is not trained yet. Raises InterruptedRunError."""

    def keep(network: Trained) -> None:
        comparison.networks.append(network)
        comparison.save(out)

    comparison.save(out)
    names, done = record.names_of(comparison.random), list(comparison.networks)
    assert comparison.target is not None  # `_begin` has set it
    alike.train_left(names, specs, done, settings, searched, comparison.target, out, console, keep)


if __name__ == "__main__":
    sys.exit(main())
