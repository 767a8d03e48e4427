"""Which signals rank cells of equal size? `python -m benchmarks.evidence.equal_size signals --data DATASET --table CSV`

Draws cells of a few sizes of NAS-Bench-201 and measures each of them in cheap ways. Reports Spearman's rank correlation
with the table's test accuracy after 200 epochs, within each size, averaged over sizes, with a bootstrap standard error.
Only sizes that `cells` does not search are looked at.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import cross_entropy

from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.engine.evaluate import recalibrate
from asose_fast.engine.step.steps import weight_step
from asose_fast.engine.task import ImageTask
from asose_fast.space.copying import deepcopy
from asose_fast.space.supernet import Supernet
from benchmarks.evidence.equal_size.table import KIND, NAMES, Path201, Size, Table
from benchmarks.evidence.report import Table as Printed
from benchmarks.evidence.report import changes, summary, write
from benchmarks.evidence.training import CPU

SMALL = {
    "space": KIND,
    "channels": 8,
    "cells": 5,
    "image_size": 8,
    "batch_size": 32,
    "limit_train": 8000,
    "limit_test": 100,
    "learning_rate": 0.1,
    "threads": 1,
}
"""6,000 training and 2,000 validation images of 16 pixels a side, and a network of three cells."""
SIZES = (Size(2, 2), Size(3, 1), Size(4, 1))
"""These sizes are for looking; `cells` searches others."""
AFTER = (25, 50, 100)
"""The mean training loss is taken over so many first steps, where no others are asked for."""
GRADIENT_BATCHES = 4
WARMUP_EPOCHS = 3
BOOTSTRAPS = 500

Supernets = Literal["uniform", "fair", "band"]
"""Each step of the warmup trains a path: a uniformly random one, one of as many as there are candidates that together
have each candidate of a row once and make one update (FairNAS, arXiv 1907.01845), or one of the size of the cell."""
Values = dict[str, float]
"""The signals of a cell: the larger, the better it should be."""


class Bench:
    """Holds the data and the network that every cell is measured on."""

    def __init__(self, data: str, seed: int, settings: dict[str, Any]) -> None:
        self.config = Config(**{**SMALL, "dataset": data, "seed": seed, **settings})
        self.task = ImageTask(self.config, load_data(self.config, self.config.batch_size, seed, CPU), CPU)

    def supernet(self) -> Supernet:
        """Builds it with the weights of the seed."""
        torch.manual_seed(self.config.seed)
        return self.task.placed(self.task.supernet())

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Gives augmented training batches without end."""
        epoch = 0
        while True:
            yield from self.task.data.train.batches(epoch, augment=self.config.augment)
            epoch += 1

    def training(self, supernet: Supernet, path: Path201, after: Sequence[int]) -> Values:
        """Trains a copy of what `path` derives. Returns minus the mean loss of the first steps."""
        network = deepcopy(supernet.derive(path)).train()
        optimizer, losses = self.task.optimizer(network), []
        for (x, y), _ in zip(self.batches(), range(max(after)), strict=False):
            losses.append(float(weight_step(network, optimizer, x, y, None, clip=self.config.gradient_clip).loss))
        return {str(steps): -statistics.mean(losses[:steps]) for steps in after}

    def gradient_norm(self, supernet: Supernet, path: Path201) -> float:
        """Returns the logarithm of the gradient's norm before any training, averaged over batches."""
        network, logs = deepcopy(supernet.derive(path)).train(), []
        for (x, y), _ in zip(self.batches(), range(GRADIENT_BATCHES), strict=False):
            network.zero_grad(set_to_none=True)
            cross_entropy(network(x), y).backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
            logs.append(math.log(float(norm) + 1e-12))
        return statistics.mean(logs)

    @torch.no_grad()
    def likelihood(self, supernet: Supernet, path: Path201) -> float:
        """Returns the mean log-likelihood of the validation images, with the weights of the supernet."""
        network, total, images = deepcopy(supernet.derive(path)), 0.0, 0
        recalibrate(network, self.batches(), self.config.recalibration_batches)
        network.eval()
        for x, y in self.task.data.valid.batches(0, shuffle=False, augment=False):
            total, images = total - float(cross_entropy(network(x), y, reduction="sum")), images + len(y)
        return total / images

    def warmed(self, how: Supernets, members: Sequence[Path201], epochs: int) -> Supernet:
        """Trains a supernet; all ways run as many paths. The rate is constant."""
        network, choice = self.supernet().train(), random.Random(self.config.seed)
        optimizer, batches = self.task.optimizer(network), self.batches()
        steps = epochs * self.task.data.train.num_batches()
        if how != "fair":
            for _ in range(steps):
                path = (
                    choice.choice(members) if how == "band" else tuple(choice.randrange(len(NAMES)) for _ in range(6))
                )
                weight_step(network, optimizer, *next(batches), list(path), clip=self.config.gradient_clip)
            return network
        for _ in range(steps // len(NAMES)):
            columns = [choice.sample(range(len(NAMES)), len(NAMES)) for _ in range(6)]
            x, y = next(batches)
            optimizer.zero_grad(set_to_none=True)
            for path in zip(*columns, strict=True):
                cross_entropy(network(x, path=list(path)), y).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), self.config.gradient_clip)
            optimizer.step()
        return network


def correlation(table: Table, values: dict[Path201, float]) -> tuple[float, float]:
    """Returns Spearman's with the truth, averaged over sizes, and its standard error over redrawn cells."""
    groups: dict[Size, list[Path201]] = {}
    for size, members in table.classes.items():
        if kept := [path for path in members if path in values]:
            groups[size] = kept

    def average(drawn: Sequence[Sequence[Path201]]) -> float:
        found = [stats.spearmanr([values[p] for p in g], [table.accuracies[p] for p in g]).statistic for g in drawn]
        return statistics.mean(map(float, found))

    choice = random.Random(0)
    again = [average([choice.choices(g, k=len(g)) for g in groups.values()]) for _ in range(BOOTSTRAPS)]
    return average(list(groups.values())), statistics.stdev(again)


def cells(table: Table, count: int, seed: int) -> dict[Size, list[Path201]]:
    """Draws so many cells of every size of `SIZES`."""
    return {size: random.Random(seed).sample(table.classes[size], count) for size in SIZES}


class Found:
    """Keeps what was measured in a file, and measures nothing twice."""

    def __init__(self, options: argparse.Namespace, table: Table) -> None:
        self.options, self.table, self.path = options, table, options.out
        self.signals: dict[str, dict[Path201, float]] = {}
        if self.path and self.path.exists():
            for name, pairs in json.loads(self.path.read_text())["signals"].items():
                self.signals[name] = {tuple(path): value for path, value in pairs["cells"]}

    def has(self, name: str, path: Path201) -> bool:
        """Says whether this signal of the cell is known."""
        return path in self.signals.get(name, {})

    def add(self, path: Path201, values: Values) -> None:
        """Takes note of signals of a cell, and writes the file."""
        for name, value in values.items():
            self.signals.setdefault(name, {})[path] = value
        write(self.path, {**summary(self.options), "sizes": SIZES, "signals": self._described()})

    def _described(self) -> dict[str, Any]:
        return {name: {"cells": [[list(p), v] for p, v in kept.items()]} for name, kept in self.signals.items()}

    def report(self) -> None:
        """Prints the correlations, and writes them."""
        described, printed = (
            self._described(),
            Printed("signal", "cells", "rank correlation within size", "standard error"),
        )
        for name, kept in self.signals.items():
            value, error = correlation(self.table, kept)
            described[name] |= {"spearman": value, "standard_error": error}
            printed.row(name, len(kept), f"{value:.2f}", f"{error:.2f}")
        write(self.path, {**summary(self.options), "sizes": SIZES, "signals": described})


def measure(
    bench: Bench, found: Found, drawn: dict[Size, list[Path201]], parts: Sequence[str], after: Sequence[int]
) -> None:
    """Measures the parts that are asked for: `scratch`, or the supernets by their names."""
    seed = bench.config.seed
    fresh = bench.supernet()
    every = [path for paths in zip(*drawn.values(), strict=True) for path in paths]
    if "scratch" in parts:
        for path in every:
            if not found.has(f"scratch {max(after)}", path):
                values = {f"scratch {steps}": v for steps, v in bench.training(fresh, path, after).items()}
                found.add(path, {**values, "gradient norm": bench.gradient_norm(fresh, path)})
    for how in ("uniform", "fair", "band"):
        if how not in parts:
            continue
        for size, paths in drawn.items():
            name = f"{how} supernet {seed}: likelihood"
            if all(found.has(name, path) for path in paths):
                continue
            if how == "band" or size == SIZES[0]:
                network = bench.warmed(how, found.table.classes[size], bench.config.warmup_epochs)
            for path in paths:
                found.add(path, {name: bench.likelihood(network, path)})
    if "inherited" in parts:
        network = bench.warmed("uniform", (), bench.config.warmup_epochs)
        for path in every:
            if not found.has(f"inherited {max(after)}", path):
                values = bench.training(network, path, after)
                found.add(path, {f"inherited {steps}": v for steps, v in values.items()})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.equal_size signals", description=__doc__)
    parser.add_argument("--data", required=True, help="dataset of Config")
    parser.add_argument("--table", type=Path, required=True, help="CSV file of the cells' accuracies")
    parser.add_argument("--cells", type=int, default=20, help="of every size")
    parser.add_argument("--sizes", nargs="*", default=[], metavar="N3,N1", help="those of `SIZES` where none is given")
    parser.add_argument("--parts", nargs="+", default=["scratch", "uniform", "fair", "band", "inherited"])
    parser.add_argument("--after", type=int, nargs="+", default=AFTER, help="steps of training")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and paths")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of Config")
    parser.add_argument("--out", type=Path, help="JSON file to write after each cell; what it holds is not redone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table.read(options.table)
    found = Found(options, table)
    bench = Bench(options.data, options.seed, {"warmup_epochs": WARMUP_EPOCHS, **changes(options.set)})
    drawn = cells(table, options.cells, seed=0)
    asked = [Size(*map(int, word.split(","))) for word in options.sizes] or SIZES
    measure(bench, found, {size: drawn[size] for size in asked}, options.parts, options.after)
    found.report()


if __name__ == "__main__":
    main()
