"""Is what a search finds better than its own size? `python -m benchmarks.evidence.equal_size cells --data DATASET ...`

Each search is given one size of NAS-Bench-201 as a band of parameters and FLOPs with nothing else in it. Its result is
the percentile of the cell that it derives among all cells of this size, by the test accuracy on CIFAR-10 after 200
epochs that the benchmark's table has. A random choice has 1/2 on average. No figure of the table reaches a search.

The protocol was fixed before the searches were run:

- Sizes: all of at least `LEAST_MEMBERS` cells but those of `signals`, on which the settings below were chosen.
- Searches: one of each size in each of two arms, with the seeds `FIRST_SEED`, `FIRST_SEED` + 1, ... which both arms
  share. Sizes come in a shuffled order. The arms may run beside each other. No search is left out or repeated.
- Arms: `uniform` has finals (docs/derive.md) of finalists that are drawn uniformly from the size, without a supernet.
  `alpha` has the same finals of finalists that are drawn by alpha, after a search of a supernet. All else is the same.
- Stopping: after all of them. What is missing at a deadline is said to be missing.
- Tests: for each arm the mean percentile, its 95 % interval and the two-sided p of the t-test against 1/2; Wilcoxon's
  signed-rank test besides. The t-test of the paired differences, alpha - uniform, says what the differential part is
  worth. The target is a mean of 0.75 with p < 0.01.
- Besides: percentiles among the cells of the size that waste no convolution, the mean percentile of the finalists of
  the first rung, and in the arm `alpha` the percentile of the most probable cell.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from scipy import stats

from asose_fast.config import Config
from asose_fast.data import load_data
from asose_fast.engine.alpha.budget import path_cost
from asose_fast.engine.observer import Observer
from asose_fast.engine.phases import Phase, PhaseSpec, schedule
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from asose_fast.space.build import make_spec
from asose_fast.space.cost import candidate_costs
from benchmarks.evidence.equal_size.signals import SIZES as EXPLORED
from benchmarks.evidence.equal_size.signals import SMALL
from benchmarks.evidence.equal_size.table import NAMES, Path201, Size, Table
from benchmarks.evidence.report import Table as Printed
from benchmarks.evidence.report import changes, summary, write
from benchmarks.evidence.training import CPU

LEAST_MEMBERS = 90
FIRST_SEED = 100
SEARCH = {
    **SMALL,
    "limit_train": 4000,
    "valid_fraction": 0.125,
    "recalibration_batches": 4,
    "warmup_epochs": 2,
    "search_epochs": 4,
    "growth_epochs": 1,
    "finals_epochs": 14,
    "finals_paths": 16,
    "optimize_epochs": 1,
    "optimize_from": "scratch",
}
"""3,500 images are for the weights and 500 for alpha. The finalists begin with fresh weights. Rungs of 16, 8, 4 and 2
finalists have 24, 48, 96 and 192 steps for each of them."""
FLAT = {"alpha_std": 0.0, "alpha_none": 0.0, "alpha_skip": 0.0}
"""With equal logits, and all paths of one size, what finals draw is uniform: noise decides, and it is the same for all
rows and for all candidates of a row. The first finalist is not drawn: of equally probable paths it is the first."""

Arm = Literal["uniform", "alpha"]
ARMS: tuple[Arm, ...] = ("uniform", "alpha")


class Job(NamedTuple):
    """A search to run."""

    arm: Arm
    size: Size
    seed: int
    data: str
    settings: dict[str, Any]


class Searched(NamedTuple):
    """A search and what it found, in paths."""

    arm: Arm
    size: Size
    seed: int
    found: Path201
    finalists: tuple[Path201, ...]
    """The most probable comes first."""
    rungs: tuple[tuple[tuple[int, float], ...], ...]
    """The numbers of the finalists of each rung with their mean training losses, the best first."""
    seconds: float


class Watch(Observer):
    """Takes note of the finalists."""

    def __init__(self) -> None:
        self.finalists: tuple[Path201, ...] = ()

    def on_phase_start(self, state: SearchState, phase: Phase) -> None:
        if state.finals:
            self.finalists = tuple(tuple(finalist.path) for _, finalist in sorted(state.finals.finalists.items()))


def band(config: Config, channels: int, classes: int, image_size: int, size: Size) -> dict[str, int]:
    """Returns the settings that leave the cells of one size, and no others."""
    path = [NAMES.index("nor_conv_3x3")] * size.n3 + [NAMES.index("nor_conv_1x1")] * size.n1
    path += [NAMES.index("none")] * (6 - len(path))
    cost = path_cost(path, candidate_costs(make_spec(config, channels, classes), image_size))
    return {
        f"derive_{end}_{name}": value
        for end in ("min", "max")
        for name, value in zip(("parameters", "flops"), cost, strict=True)
    }


def search(job: Job) -> Searched:
    """Runs a search of the product."""
    torch.set_num_threads(1)
    flat = FLAT if job.arm == "uniform" else {}
    config = Config(**{**SEARCH, **flat, "dataset": job.data, "seed": job.seed, **job.settings})
    images = load_data(config, config.batch_size, config.seed, CPU)
    bounds = band(config, images.channels, len(images.classes), images.image_size, job.size)
    config = Config(**{**config.to_dict(), "candidates": NAMES, **bounds})
    task = ImageTask(config, images, CPU)
    if job.arm == "uniform":  # alpha stays as it is, and nothing that a supernet learns is used
        finals = PhaseSpec("finals", config.finals_epochs, updates="weights", architecture="finalists")
        last = PhaseSpec("optimize", config.optimize_epochs, updates="weights", architecture="derived")
        task.phases = schedule([finals, last])
    state, watch = SearchState(task), Watch()
    Trainer(state, observers=[watch]).run()
    rungs = tuple(
        tuple((watch.finalists.index(_path(one["operations"])), one["loss"]) for one in rung["finalists"])
        for record in state.history
        for rung in record.get("finals") or ()
    )
    seconds = sum(record["seconds"] for record in state.history)
    return Searched(job.arm, job.size, job.seed, _path(state.network.operations), watch.finalists, rungs, seconds)


def _path(operations: Sequence[str]) -> Path201:
    return tuple(map(NAMES.index, operations))


def jobs(table: Table, data: str, settings: dict[str, Any]) -> list[Job]:
    """Returns all searches, those of an arm together."""
    large = [size for size, members in table.classes.items() if len(members) >= LEAST_MEMBERS and size not in EXPLORED]
    sizes = random.Random(FIRST_SEED).sample(sorted(large), len(large))
    return [Job(arm, size, FIRST_SEED + i, data, settings) for arm in ARMS for i, size in enumerate(sizes)]


def against_half(values: Sequence[float]) -> dict[str, float]:
    """Returns mean, standard deviation, 95 % interval and p of the t-test against 1/2, and p of Wilcoxon's."""
    test = stats.ttest_1samp(values, 0.5)
    interval = test.confidence_interval(0.95)
    return {
        "searches": len(values),
        "mean": statistics.mean(values),
        "deviation": statistics.stdev(values),
        "low": interval.low,
        "high": interval.high,
        "p": test.pvalue,
        "p_wilcoxon": stats.wilcoxon([value - 0.5 for value in values]).pvalue,
    }


def difference(table: Table, found: Sequence[Searched]) -> dict[str, float]:
    """Returns mean, 95 % interval and p (paired t-test) of the percentiles of alpha minus those of uniform."""
    ours, others = ({one.size: table.percentile(one.found) for one in found if one.arm == arm} for arm in ARMS[::-1])
    pairs = [ours[size] - others[size] for size in ours if size in others]
    test = stats.ttest_1samp(pairs, 0.0)
    interval = test.confidence_interval(0.95)
    return {
        "pairs": len(pairs),
        "mean": statistics.mean(pairs),
        "low": interval.low,
        "high": interval.high,
        "p": test.pvalue,
    }


def compared(table: Table, found: Sequence[Searched]) -> dict[str, Any]:
    """Returns the figures of each arm that has two searches at least, and the difference between the arms."""
    figures: dict[str, Any] = {}
    for arm in ARMS:
        mine = [one for one in found if one.arm == arm]
        if len(mine) < 2:
            continue
        pools = [statistics.mean(map(table.percentile, one.finalists)) for one in mine]
        figures[arm] = {
            "found": against_half([table.percentile(one.found) for one in mine]),
            "among those without waste": against_half([table.percentile(one.found, thrifty=True) for one in mine]),
            "finalists, mean": against_half(pools),
            "first finalist": against_half([table.percentile(one.finalists[0]) for one in mine]),
            "correlation of loss and accuracy in the first rung": statistics.mean(map(loss_correlation(table), mine)),
        }
    if len(figures) == len(ARMS):
        figures["alpha - uniform"] = difference(table, found)
    return figures


def loss_correlation(table: Table) -> Callable[[Searched], float]:
    """Returns a function that gives Spearman's between minus the losses of a search's first rung and the accuracies."""

    def correlation(one: Searched) -> float:
        numbers, losses = zip(*one.rungs[0], strict=True)
        truth = [table.accuracies[one.finalists[k]] for k in numbers]
        return float(stats.spearmanr([-loss for loss in losses], truth).statistic)

    return correlation


def earlier(path: Path | None, settings: list[str]) -> list[Searched]:
    """Returns what the file holds already. Raises ValueError for one of other settings."""
    if path is None or not path.exists():
        return []
    written = json.loads(path.read_text())
    if written["options"]["set"] != settings:
        raise ValueError(f"{path} holds results of other settings: give another --out")
    return [
        Searched(
            one["arm"],
            Size(*one["size"]),
            one["seed"],
            tuple(one["found"]),
            tuple(map(tuple, one["finalists"])),
            tuple(tuple(map(tuple, rung)) for rung in one["rungs"]),
            one["seconds"],
        )
        for one in written["searches"]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.equal_size cells", description=__doc__)
    parser.add_argument("--data", required=True, help="dataset of Config")
    parser.add_argument("--table", type=Path, required=True, help="CSV file of the cells' accuracies")
    parser.add_argument("--processes", type=int, default=1, help="searches at a time")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS, help="to search; all that is found counts")
    parser.add_argument("--add", type=Path, help="JSON file of an earlier call with these settings: it counts too")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of Config, for all")
    parser.add_argument("--out", type=Path, help="JSON file to write after each search; what it holds is not redone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table.read(options.table)
    done = {(one.arm, one.size): one for path in (options.add, options.out) for one in earlier(path, options.set)}
    found = list(done.values())
    planned = [job for job in jobs(table, options.data, changes(options.set)) if job.arm in options.arms]
    asked = [job for job in planned if (job.arm, job.size) not in done]
    printed = Printed("arm", "3x3, 1x1", "seed", "percentile", "accuracy", "of finalists", "seconds", "found")
    with ProcessPoolExecutor(options.processes) as pool:
        for ended in as_completed([pool.submit(search, job) for job in asked]):
            one = ended.result()
            found.append(one)
            mean = statistics.mean(map(table.percentile, one.finalists))
            printed.row(
                one.arm,
                f"{one.size.n3}, {one.size.n1}",
                one.seed,
                f"{table.percentile(one.found):.2f}",
                f"{table.accuracies[one.found]:.2f} %",
                f"{mean:.2f}",
                f"{one.seconds:.0f}",
                ", ".join(NAMES[k] for k in one.found),
            )
            save(options, table, found)
    save(options, table, found)
    print(json.dumps(compared(table, found), indent=1))


def save(options: argparse.Namespace, table: Table, found: Sequence[Searched]) -> None:
    """Writes all searches with their figures, where a file is asked for."""
    described = [{**one._asdict(), "percentile": table.percentile(one.found)} for one in found]
    write(options.out, {**summary(options), "figures": compared(table, found), "searches": described})


if __name__ == "__main__":
    main()
