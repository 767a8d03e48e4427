"""What does a search reach in so many seconds? `python -m benchmarks.evidence.over_seconds --data DATASET ...`

The default search of the commands for images is made shorter, all its phases alike. Beside it stand a random network,
uniform among those that the search may derive and trained by the same recipe, and the plain network of four layers
(`plain`), each for the seconds that the whole search took. Seconds are processor time of one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from asose_fast.config import Config
from asose_fast.data import Data, load_data
from asose_fast.engine.alpha.budget_keeper import BudgetKeeper
from asose_fast.engine.alpha.random_paths import random_paths
from asose_fast.engine.comparison.training import training_config
from asose_fast.engine.evaluate import accuracy
from asose_fast.engine.retrainer import Retrainer, TrainingState
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from asose_fast.presets import IMAGES
from asose_fast.space.build import make_spec
from asose_fast.space.network import Network, NetworkSpec
from asose_fast.space.prune import pruned_spec
from benchmarks.evidence.plain import networks, train
from benchmarks.evidence.report import Table, changes, summary, write
from benchmarks.evidence.training import CPU

PHASES = ("warmup_epochs", "search_epochs", "growth_epochs", "optimize_epochs")
ARMS = {"search": "#1f6f8b", "random": "#b5482a", "plain": "#777777"}
"""With the colours of their lines."""
PLAIN_WIDTH = 34
"""Channels of a plain network that has as many parameters as a search may derive."""


class Point(NamedTuple):
    """One network and what it comes to."""

    arm: str
    share: float
    """Of the epochs of the default search."""
    seed: int
    seconds: float
    parameters: int
    test_accuracy: float


def shortened(settings: dict[str, Any], share: float) -> dict[str, Any]:
    """Settings with so large a share of the epochs of every phase, at least one."""
    return {**settings, **{name: max(1, round(share * settings[name])) for name in PHASES}}


def searched(config: Config, data: Data, share: float) -> Point:
    """What the whole search comes to."""
    began = time.process_time()
    state = SearchState(ImageTask(config, data, CPU))
    with tempfile.TemporaryDirectory() as folder:
        Trainer(state, Path(folder)).run()
    seconds = time.process_time() - began
    network = state.derived()
    parameters = sum(p.numel() for p in network.parameters())
    return Point("search", share, config.seed, seconds, parameters, accuracy(network, data.test.batches(0)))


def random_network(config: Config, data: Data) -> NetworkSpec:
    """One that the grown supernet could derive within the bounds of `config`, each as probable."""
    spec = make_spec(
        dataclasses.replace(config, depth=config.max_depth), data.channels, len(data.classes), data.image_size
    )
    if not isinstance(spec, NetworkSpec):
        raise TypeError(f"the space {config.space} is not one of evolvable blocks")
    costs, budget = BudgetKeeper(config, data.image_size).of(Network(spec))
    generator = torch.Generator().manual_seed(config.seed + 10_000)
    return pruned_spec(spec.derive(random_paths(costs, budget, 1, generator)[0]))


def trained(config: Config, data: Data, share: float, seconds: float) -> Point:
    """What a random network comes to in as many epochs as fit into `seconds`, by the time that one takes."""
    spec = random_network(config, data)
    began = time.process_time()
    _train(config, spec, data, epochs=1)
    epochs = max(1, round(seconds / (time.process_time() - began)))
    began = time.process_time()
    state = _train(config, spec, data, epochs)
    spent = time.process_time() - began
    parameters = sum(p.numel() for p in state.result.parameters())
    return Point("random", share, config.seed, spent, parameters, state.test_accuracy())


def _train(config: Config, spec: NetworkSpec, data: Data, epochs: int) -> TrainingState:
    state = TrainingState(training_config(config, epochs, config.seed), spec, data, CPU)
    Retrainer(state).run()
    return state


def plot(points: list[Point], path: Path) -> None:
    """A line an arm through the means of its seeds, and every network as a point."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for arm, colour in ARMS.items():
        own = [point for point in points if point.arm == arm]
        shares = sorted({point.share for point in own})
        groups = [[point for point in own if point.share == share] for share in shares]
        line = [
            [sum(values) / len(values) for values in zip(*((p.seconds, p.test_accuracy) for p in group), strict=True)]
            for group in groups
        ]
        panel.plot(*zip(*line, strict=True), color=colour, label=arm)
        panel.scatter([p.seconds for p in own], [p.test_accuracy for p in own], color=colour, s=12)
    panel.set_xlabel("seconds of one thread")
    panel.set_ylabel("test accuracy")
    panel.set_xscale("log")
    panel.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.over_seconds", description=__doc__)
    parser.add_argument("--data", required=True, help="dataset of Config")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.1, 0.25, 0.5, 1.0], help="of the default's epochs"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of Config")
    parser.add_argument("--plot", type=Path, help="figure to write (.svg, .png)")
    parser.add_argument("--out", type=Path, help="JSON file to write after each network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("arm", "share", "seed", "seconds", "parameters", "test accuracy")
    points: list[Point] = []

    def tell(one: Point) -> None:
        points.append(one)
        table.row(*one[:3], f"{one.seconds:.0f}", f"{one.parameters:,}", f"{one.test_accuracy:.2%}")
        write(options.out, {**summary(options), "points": [point._asdict() for point in points]})

    for seed in options.seeds:
        for share in options.shares:
            settings = {**IMAGES, **changes(options.set), "dataset": options.data, "seed": seed, "threads": 1}
            config = Config(**shortened(settings, share))
            data = load_data(config, config.batch_size, seed, CPU)
            tell(searched(config, data, share))
            seconds = points[-1].seconds
            tell(trained(config, data, share, seconds))
            plain = train("plain", networks(PLAIN_WIDTH)[f"four layers of {PLAIN_WIDTH}"], data, config, seconds)
            tell(Point("plain", share, seed, plain.seconds, plain.parameters, plain.test_accuracy))
    if options.plot:
        plot(points, options.plot)


if __name__ == "__main__":
    main()
