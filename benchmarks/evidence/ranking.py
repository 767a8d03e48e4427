"""Does the supernet rank architectures as training does? `python -m benchmarks.evidence.ranking --data DATASET ...`

Searches as `search_vs_random` does, and at the ends of some epochs measures the architectures of one of its JSON files
on the validation images, with the weights that they share and batch-norm statistics of their own. Reports Spearman's
rank correlation with the test accuracies that the file has for them after training from scratch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy import stats
from torch.nn.functional import cross_entropy

from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.engine.phases import Phase
from asose_fast.engine.record import Record
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from benchmarks.evidence.report import Table, changes, summary, write
from benchmarks.evidence.search_vs_random import SEARCH, Trained
from benchmarks.evidence.training import CPU


class Measured(NamedTuple):
    """An architecture on the validation images, with the supernet's weights: the larger, the better."""

    accuracy: float
    log_likelihood: float
    """Mean, in nats."""


class Done(Exception):
    """All has been measured."""


class Measure:
    """An observer that measures `known` at the ends of the epochs `at` and ends the run after the last."""

    def __init__(self, known: list[Trained], at: list[int], table: Table) -> None:
        self.known, self.at, self.table = known, at, table
        self.found: list[dict[str, Any]] = []

    def on_epoch_start(self, state: SearchState, phase: Phase) -> None: ...

    def on_step(self, state: SearchState) -> None: ...

    def on_epoch_end(self, state: SearchState, record: Record) -> None:
        if record["epoch"] not in self.at:
            return
        candidates = state.selector.candidates
        paths = [[candidates.index(name) for name in one.operations] for one in self.known]
        measured = [measure(state, path) for path in paths]
        ranks = {name: correlations(self.known, [getattr(m, name) for m in measured]) for name in Measured._fields}
        kept = ("epoch", "phase", "train_accuracy", "valid_accuracy", "entropy_by_layer", "max_weight_by_layer", "path")
        self.found.append({key: record[key] for key in kept} | {"spearman": ranks, "measured": measured})
        spread = 100 * statistics.stdev(m.accuracy for m in measured)
        figures = (f"{all_of_them:.2f}, {drawn:.2f}" for all_of_them, drawn in ranks.values())
        self.table.row(record["epoch"], record["phase"], f"{record['entropy']:.2f}", f"{spread:.1f}", *figures)
        if record["epoch"] == max(self.at):
            raise Done


@torch.no_grad()
def measure(state: SearchState, path: list[int]) -> Measured:
    """Of a path."""
    network = state.network.derive(path)
    state.calibrate(network)
    network.eval()
    likelihood, correct, images = 0.0, 0, 0
    for x, y in state.data.valid.batches(0, shuffle=False, augment=False):
        scores = network(x)
        likelihood -= float(cross_entropy(scores, y, reduction="sum"))
        correct, images = correct + int((scores.argmax(1) == y).sum()), images + len(y)
    state.network.train()
    return Measured(correct / images, likelihood / images)


def correlations(known: list[Trained], values: list[float]) -> tuple[float, float]:
    """Spearman's with the trained accuracies: of all architectures, and of the random ones alone."""
    found = []
    for kept in (known, [one for one in known if one.origin == "random"]):
        pairs = [(value, one.test_accuracy) for value, one in zip(values, known, strict=True) if one in kept]
        found.append(float(stats.spearmanr(*zip(*pairs, strict=True)).statistic))
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.ranking", description=__doc__)
    parser.add_argument("--data", required=True, help="dataset of Config")
    parser.add_argument("--known", type=Path, required=True, help="JSON file of search_vs_random")
    parser.add_argument("--at", type=int, nargs="+", default=[4, 32], help="epochs to measure after")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of Config")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = [Trained(**one) for one in json.loads(options.known.read_text())["trained"]]
    table = Table(
        "epoch", "phase", "entropy", "spread of accuracies, points", "by accuracy: all, random", "by likelihood"
    )
    watch = Measure(known, options.at, table)
    config = Config(**{**SEARCH, "dataset": options.data, "seed": options.seed, **changes(options.set)})
    images = load_data(config, config.batch_size, config.seed, CPU)
    with contextlib.suppress(Done):
        Trainer(SearchState(ImageTask(config, images, CPU)), observers=[watch]).run()
    write(options.out, {**summary(options), "known": options.known.name, "epochs": watch.found})


if __name__ == "__main__":
    main()
