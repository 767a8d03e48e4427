"""Does the search beat random choice? `python -m benchmarks.evidence.search_vs_random --data imagefolder:PATH ...`

Searches a space with several seeds, without growth, draws as many random architectures as asked for from the same
space, and trains every one of them from scratch in the same way. Reports test accuracies, the difference of the means
with its 95 % confidence interval (Welch), and the architectures.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy import stats

from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from asose_fast.space import NetworkSpec
from asose_fast.space.cost import largest_derived
from benchmarks.evidence.report import Table, changes, summary, write
from benchmarks.evidence.training import CPU, train

SEARCH = {
    "limit_train": 6000,
    "warmup_epochs": 4,
    "search_epochs": 12,
    "growth_epochs": 16,
    "optimize_epochs": 1,
    "channels": 16,
    "threads": 1,
    "growth_patience": 1000,
}
"""The search: 4,500 images for the weights, 1,500 for alpha; the phases of 40 epochs, without the training of the
derived network, whose weights are not used."""

ORIGINS = {"search", "random"}


class Trained(NamedTuple):
    """An architecture and what it comes to."""

    origin: str
    seed: int
    operations: tuple[str, ...]
    parameters: int
    flops: int
    test_accuracy: float


def searched(data: str, seed: int, settings: dict[str, Any]) -> list[int]:
    """The path that the search with `seed` derives."""
    torch.set_num_threads(1)
    config = Config(**{**SEARCH, "dataset": data, "seed": seed, **settings})
    images = load_data(config, config.batch_size, config.seed, CPU)
    state = SearchState(ImageTask(config, images, CPU))
    Trainer(state).run()
    return [config.candidates.index(name) for name in state.network.operations]


def drawn(seed: int, settings: dict[str, Any]) -> list[int]:
    """A path drawn uniformly."""
    config = Config(**{**SEARCH, **settings})
    choice = random.Random(seed)
    return [choice.randrange(len(config.candidates)) for _ in range(config.depth)]


def evaluate(origin: str, seed: int, path: list[int], data: str, epochs: int, settings: dict[str, Any]) -> Trained:
    """Trains the network of `path` from scratch."""
    torch.set_num_threads(1)
    config = Config(**{**SEARCH, "dataset": data, "seed": 0, **settings})
    images = load_data(config, config.batch_size, config.seed, CPU)
    spec = NetworkSpec.chain(config, images.channels, len(images.classes)).derive(path)
    cost = largest_derived(spec, images.image_size)
    accuracy = train(spec, images, config, epochs=epochs, seed=seed).test_accuracy
    operations = tuple(block.candidates[0] for block in spec.blocks)
    return Trained(origin, seed, operations, cost.parameters, cost.flops, accuracy)


class Job(NamedTuple):
    """An architecture to find, unless it is given, and to train."""

    origin: str
    seed: int
    operations: tuple[str, ...] | None
    data: str
    epochs: int
    settings: dict[str, Any]
    """Of the search."""
    training: dict[str, Any]
    """Of the training."""


def run(job: Job) -> Trained:
    """Finds and trains."""
    if job.operations is not None:
        path = [Config().candidates.index(name) for name in job.operations]
    elif job.origin == "search":
        path = searched(job.data, job.seed, job.settings)
    else:
        path = drawn(job.seed, job.settings)
    return evaluate(job.origin, job.seed, path, job.data, job.epochs, {**job.settings, **job.training})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.search_vs_random", description=__doc__)
    parser.add_argument("--data", required=True, help="dataset of Config")
    parser.add_argument("--searches", type=int, default=4)
    parser.add_argument("--random", type=int, default=8, help="random architectures")
    parser.add_argument("--epochs", type=int, default=40, help="of training from scratch")
    parser.add_argument("--processes", type=int, default=1, help="searches or trainings at a time")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of Config, for all")
    parser.add_argument("--train", nargs="*", default=[], metavar="KEY=VALUE", help="other settings for training")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument(
        "--add", type=Path, help="JSON file of an earlier call with these settings: its results count too"
    )
    parser.add_argument(
        "--random_of",
        type=Path,
        help="JSON file of an earlier call that trained alike: its random architectures count too",
    )
    parser.add_argument("--again", type=Path, help="JSON file of an earlier call: trains its architectures again")
    parser.add_argument(
        "--out", type=Path, help="JSON file to write after each architecture; what it holds already counts"
    )
    options = parser.parse_args()
    table = Table("from", "seed", "test accuracy", "parameters", "MFLOPs", "operations")
    found = earlier(options)
    asked = [job for job in jobs(options) if (job.origin, job.seed) not in {(one.origin, one.seed) for one in found}]
    with ProcessPoolExecutor(options.processes) as pool:
        for one in pool.map(run, asked):
            found.append(one)
            cost = f"{one.parameters:,}", f"{one.flops / 1e6:.1f}"
            table.row(one.origin, one.seed, f"{one.test_accuracy:.2%}", *cost, ", ".join(one.operations))
            write(options.out, {**summary(options), **compared(found), "trained": [one._asdict() for one in found]})
    if figures := compared(found):
        ours, others = map(statistics.mean, accuracies(found))
        difference, low, high = (100 * figures[name] for name in ("difference", "low", "high"))
        interval = f"{difference:.1f} points [{low:.1f}, {high:.1f}], p = {figures['p']:.2g}"
        print(f"search {ours:.2%}, random {others:.2%}: difference {interval}")


def earlier(options: argparse.Namespace) -> list[Trained]:
    """What counts of earlier calls, each architecture once. Raises ValueError for an `out` of other settings."""
    found: dict[tuple[str, int], Trained] = {}
    for path, origins in ((options.random_of, {"random"}), (options.add, ORIGINS), (options.out, ORIGINS)):
        if path is None or (path == options.out and not path.exists()):
            continue
        written = json.loads(path.read_text())
        if path == options.out:
            settings = ("epochs", "set", "train")
            if [written["options"][name] for name in settings] != [getattr(options, name) for name in settings]:
                raise ValueError(f"{path} holds results of other settings: give another --out")
        trained = [Trained(**one) for one in written["trained"]]
        found |= {(one.origin, one.seed): one for one in trained if one.origin in origins}
    return list(found.values())


def accuracies(found: list[Trained]) -> tuple[list[float], list[float]]:
    """On the test images, of what was searched and of what was drawn."""
    ours, others = ([one.test_accuracy for one in found if one.origin == origin] for origin in ("search", "random"))
    return ours, others


def compared(found: list[Trained]) -> dict[str, float]:
    """Difference of the means, its 95 % confidence interval and p (Welch); nothing while one side has no two."""
    ours, others = accuracies(found)
    if min(len(ours), len(others)) < 2:
        return {}
    test = stats.ttest_ind(ours, others, equal_var=False)
    interval = test.confidence_interval(0.95)
    difference = statistics.mean(ours) - statistics.mean(others)
    return {"difference": difference, "low": interval.low, "high": interval.high, "p": test.pvalue}


def jobs(options: argparse.Namespace) -> list[Job]:
    """One for each architecture."""
    shared = options.data, options.epochs, changes(options.set), changes(options.train)
    if options.again:
        trained = json.loads(options.again.read_text())["trained"]
        return [Job(one["origin"], one["seed"], tuple(one["operations"]), *shared) for one in trained]
    counts = {"search": options.searches, "random": options.random}
    seeds = {origin: range(options.first, options.first + count) for origin, count in counts.items()}
    return [Job(origin, seed, None, *shared) for origin in counts for seed in seeds[origin]]


if __name__ == "__main__":
    main()
