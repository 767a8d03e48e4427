"""What each element of the search is good for: `python -m benchmarks.evidence.ablation [--data imagefolder:PATH] ...`

Switches off one element at a time and repeats, for every seed, the search for planted operations
(`benchmarks.evidence.planted`) and, with --data, a short search on images. Of the latter it shows the accuracy of the
sampled paths in the worst epoch of the search, as a share of the warmup's last, and, at the end of the search, the
validation accuracy of the derived path, entropy and largest weight; means over seeds.
"""

from __future__ import annotations

import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.engine.trainer import Trainer
from benchmarks.evidence import faults, planted
from benchmarks.evidence.failure_and_fix import verdict
from benchmarks.evidence.report import Table, changes, summary, write


class Element(NamedTuple):
    """An element of the search: what to change so that it is missing."""

    settings: dict[str, Any]
    search: faults.Search = faults.sound
    planted: bool = True
    """Whether it has a part in the search for planted operations, whose weights are given."""


ELEMENTS: dict[str, Element] = {
    "nothing": Element({}),
    "boost": Element({"boost_top_k": 0}),
    "temperature floor of the search": Element({"search_temperature_floor": 0.1}),
    "temperature schedule": Element({"temperature_decay": 1.0}),
    "alpha every 5th batch (every 2nd)": Element({"alpha_every": 2}, planted=False),
    "noise on entry": Element({"alpha_noise": 0.0}),
    "alpha's gradient": Element({}, faults.no_gradient),
    "gradient through the boost": Element({}, faults.detached_boost),
    "alpha's learning rate by the number of its steps (0.0003)": Element({"alpha_learning_rate": 3e-4}),
    "uniform warmup (fixed skip)": Element({"warmup": "skip"}, planted=False),
    "validation images for alpha (training images)": Element({}, faults.on_training_images, planted=False),
    "recalibrated norms": Element({}, faults.stale_norms, planted=False),
    "gradient clipping": Element({"gradient_clip": 0.0}, planted=False),
}
"""What is switched off (put in its place)."""

SHORT = {"limit_train": 4000, "batch_size": 64, "channels": 8, "epochs": 30, "max_depth": 6, "threads": 1}
"""The search on images: 3,000 to train on, no growth."""


class Outcome(NamedTuple):
    """Of one element and one seed; None: not tried."""

    element: str
    seed: int
    recovered: float | None
    lowest: float | None
    valid: float | None
    entropy: float | None
    max_weight: float | None


def measure(element: str, seed: int, data: str | None, settings: dict[str, Any]) -> Outcome:
    """Both searches without `element`."""
    torch.set_num_threads(1)
    change, search, in_planted = ELEMENTS[element]
    recovered = None
    if in_planted:
        run = planted.recover(seed, search=search, **change)
        recovered = run.recovered / run.layers
    if data is None:
        return Outcome(element, seed, recovered, None, None, None, None)
    config = Config(**{**SHORT, "dataset": data, "seed": seed, **settings, **change})
    state = search(config, load_data(config, config.batch_size, config.seed, planted.CPU))
    Trainer(state).run()
    sampled, derived = (verdict(state.history, name) for name in ("train_accuracy", "valid_accuracy"))
    lowest = sampled.lowest / sampled.warmup
    return Outcome(element, seed, recovered, lowest, derived.last, derived.entropy, derived.max_weight)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.ablation", description=__doc__)
    parser.add_argument("--data", help="dataset of Config; none: planted operations alone")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=1, help="searches at a time")
    parser.add_argument("--only", nargs="*", choices=list(ELEMENTS), default=list(ELEMENTS), metavar="ELEMENT")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the search on images")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    work = [(element, seed) for element in options.only for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.processes) as pool:
        running = [pool.submit(measure, *item, options.data, changes(options.set)) for item in work]
        outcomes = [job.result() for job in running]
    show(outcomes)
    write(options.out, {**summary(options), "outcomes": [outcome._asdict() for outcome in outcomes]})


def show(outcomes: list[Outcome]) -> None:
    """One row an element, means over seeds."""
    table = Table(
        "switched off", "planted operations", "lowest / warmup's last", "valid, derived", "entropy", "max weight"
    )
    for element in dict.fromkeys(outcome.element for outcome in outcomes):
        rows = [outcome for outcome in outcomes if outcome.element == element]
        cells = []
        for field, form in zip(Outcome._fields[2:], (".0%", ".0%", ".1%", ".2f", ".2f"), strict=True):
            values = [value for row in rows if (value := getattr(row, field)) is not None]
            cells.append(format(statistics.mean(values), form) if values else "-")
        table.row(element, *cells)


if __name__ == "__main__":
    main()
