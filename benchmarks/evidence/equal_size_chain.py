"""Does a search find better networks of the same size? `python -m benchmarks.evidence.equal_size_chain --data DATASET`

Three arms, all in one band of parameters and FLOPs, in the space of ten candidates with which the search began. A
random network is drawn uniformly. Uniform finals train a uniform pool and keep the best. Alpha's finals train a pool
that alpha has drawn. A block is one seed: one supernet, the finals of both arms from fresh weights, and a random
network. All that they give is trained from scratch alike (`retrain`) and tested on images that nothing else has seen.

The primary question is what alpha adds to finals: alpha's minus uniform finals, paired by block. Finals minus random,
and alpha's finals minus random, are secondary, and p values of the three are given as they are and as Holm's. Seeds,
settings and number of blocks are fixed before the first block (`PROTOCOL`, `SEEDS`). A run that is ended by the clock
counts the blocks that it has completed, whatever they say. `--spread` measures how much networks of the band differ,
and with that `--power` simulates what the number of blocks can show.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scipy import stats

from asose_fast.config import Config
from asose_fast.data import Data, load_data
from asose_fast.engine.alpha.budget import Budget, path_cost
from asose_fast.engine.alpha.random_paths import random_paths
from asose_fast.engine.phases import Phase
from asose_fast.engine.record import Record
from asose_fast.engine.retrainer import RetrainConfig, Retrainer, TrainingState
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.engine.trainer import Trainer
from asose_fast.space.build import make_spec
from asose_fast.space.cost import Costs, candidate_costs
from asose_fast.space.network import NetworkSpec
from asose_fast.store import checkpoint
from benchmarks.evidence.report import Table, summary, write
from benchmarks.evidence.training import CPU

IMAGES: dict[str, Any] = {"limit_train": 3000, "limit_test": 10_000, "image_size": 16}
SEARCH: dict[str, Any] = {
    "space": "chain",
    "channels": 12,
    "depth": 6,
    "warmup_epochs": 8,
    "search_epochs": 9,
    "growth_epochs": 1,
    "growth_patience": 1000,
    "finals_epochs": 40,
    "finals_paths": 16,
    "optimize_epochs": 1,
    "optimize_from": "scratch",
    "alpha_every": 3,
    "batch_size": 64,
    "learning_rate": 0.1,
    "nesterov": True,
    "threads": 1,
}
TRAINING: dict[str, Any] = {
    "epochs": 12,
    "batch_size": 64,
    "learning_rate": 0.1,
    "weight_decay": 1e-3,
    "nesterov": True,
    "warmup_share": 0.2,
    "label_smoothing": 0.1,
}
RANDOM = 1
"""So many random networks has a block; their mean counts."""
SEEDS = range(200, 224)
"""Of the blocks, in this order."""
WIDTH = Budget(parameters=10, flops=5)
"""Of the band around the medians of uniform paths, in per cent: the dearest costs so much more than the cheapest."""
PROTOCOL = {"images": IMAGES, "search": SEARCH, "training": TRAINING, "random": RANDOM, "width": WIDTH[:2]}
ARMS = ("random", "uniform", "alpha")
COMPARISONS = (("alpha", "uniform"), ("uniform", "random"), ("alpha", "random"))
"""The first is the primary one."""


class Trained(NamedTuple):
    """A network and what it comes to."""

    arm: str
    operations: tuple[str, ...]
    parameters: int
    flops: int
    test_accuracy: float


class Derived(Exception):
    """The finals are over: what follows in a run is not part of this."""


class UntilDerived:
    """Ends a run when its last phase begins."""

    def on_phase_start(self, state: SearchState, phase: Phase) -> None:
        if phase.derives:
            raise Derived

    def on_epoch_start(self, state: SearchState, phase: Phase) -> None: ...

    def on_step(self, state: SearchState) -> None: ...

    def on_epoch_end(self, state: SearchState, record: Record) -> None: ...


def band(spec: NetworkSpec, image_size: int) -> tuple[Costs, Budget]:
    """Around the medians of 20,000 uniform paths, the same in all blocks."""
    costs = candidate_costs(spec, image_size)
    rows, candidates = costs.flops.shape
    paths = torch.randint(candidates, (20_000, rows), generator=torch.Generator().manual_seed(0))
    ends = []
    for table, fixed, per_cent in zip((costs.parameters, costs.flops), costs.fixed, WIDTH[:2], strict=True):
        middle = fixed + int(table[torch.arange(rows), paths].sum(1).median())
        ends.append((int(middle * (1 + per_cent / 200)), int(middle * (1 - per_cent / 200))))
    (most, least), (most_flops, least_flops) = ends
    return costs, Budget(most, most_flops, least, least_flops)


def prepared(data: str, seed: int) -> tuple[Config, Data, NetworkSpec]:
    """Settings, images and space of a block."""
    config = Config(**SEARCH, **IMAGES, dataset=data, seed=seed)
    loaded = load_data(config, config.batch_size, seed, CPU)
    spec = make_spec(config, loaded.channels, len(loaded.classes), loaded.image_size)
    if not isinstance(spec, NetworkSpec):
        raise TypeError(f"the space {config.space} is not one of evolvable blocks")
    return config, loaded, spec


def tested(one: NetworkSpec, data: str, loaded: Data, seed: int) -> float:
    """Test accuracy of a network that is trained from scratch."""
    training = RetrainConfig(**TRAINING, **IMAGES, dataset=data, seed=seed, threads=1)
    state = TrainingState(training, one, loaded, CPU)
    Retrainer(state).run()
    return state.test_accuracy()


def block(data: str, seed: int, folder: Path) -> tuple[list[Trained], dict[str, Any]]:
    """Searches, trains and tests. Returns the networks, and the records of the search."""
    config, loaded, spec = prepared(data, seed)
    costs, bounds = band(spec, loaded.image_size)
    names = ("derive_max_parameters", "derive_max_flops", "derive_min_parameters", "derive_min_flops")
    config = dataclasses.replace(config, **dict(zip(names, bounds[:4], strict=True)))
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[tuple[str, list[int]]] = []
    records: dict[str, Any] = {}
    kept = folder / "checkpoints" / "supernet.pt"
    kept.parent.mkdir(exist_ok=True)
    for arm in ("alpha", "uniform"):
        state = SearchState(ImageTask(dataclasses.replace(config, finals_from=arm), loaded, CPU))
        if arm == "uniform":
            state.load_state_dict(checkpoint.load(kept))
        with contextlib.suppress(Derived):
            Trainer(state, folder, [UntilDerived()]).run()
        paths.append((arm, state.best_path()))
        records[arm] = [rung for record in state.history for rung in record.get("finals", [])]
        if arm == "alpha":
            kept_fields = ("phase", "train_accuracy", "valid_accuracy", "entropy", "max_weight")
            records["epochs"] = [{key: record[key] for key in kept_fields} for record in state.history]
    generator = torch.Generator().manual_seed(seed + 10_000)
    paths += [("random", path) for path in random_paths(costs, bounds, RANDOM, generator)]
    found = []
    for arm, path in paths:
        one = spec.derive(path)
        operations = tuple(b.candidates[0] for b in one.blocks)
        found.append(Trained(arm, operations, *path_cost(path, costs), tested(one, data, loaded, seed)))
    return found, records


def spread(data: str, networks: int) -> tuple[float, float]:
    """Standard deviations, in points, of what random networks of the band come to, and of the noise of a training.

    Each is trained twice, with other seeds than the blocks have. The covariance of the two is the networks' variance.
    """
    _, loaded, spec = prepared(data, 0)
    costs, bounds = band(spec, loaded.image_size)
    pairs = []
    for path in random_paths(costs, bounds, networks, torch.Generator().manual_seed(0)):
        one = spec.derive(path)
        pairs.append([100 * tested(one, data, loaded, seed) for seed in (1, 2)])
        print(*(b.candidates[0] for b in one.blocks), *(f"{points:.2f}" for points in pairs[-1]), flush=True)
    first, second = zip(*pairs, strict=True)
    shared = max(0.0, statistics.covariance(first, second))
    noise = max(0.0, (statistics.variance(first) + statistics.variance(second)) / 2 - shared)
    return shared**0.5, noise**0.5


def compared(blocks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Paired differences of block means: mean, its 95 % interval, p of Student's t, of Wilcoxon's ranks, and Holm's.

    Nothing of fewer than two blocks.
    """
    found: list[dict[str, Any]] = []
    for ours, theirs in COMPARISONS if len(blocks) > 1 else ():
        differences = [one["points"][ours] - one["points"][theirs] for one in blocks]
        test = stats.ttest_1samp(differences, 0)
        interval = test.confidence_interval(0.95)
        ranks = stats.wilcoxon(differences).pvalue if any(differences) else 1.0
        ends = {"low": float(interval.low), "high": float(interval.high)}
        found.append(
            {"ours": ours, "theirs": theirs, "difference": statistics.fmean(differences), **ends}
            | {"p": float(test.pvalue), "p_ranks": float(ranks), "blocks": len(differences)}
        )
    least = 0.0
    for i, one in enumerate(sorted(found, key=lambda one: one["p"])):
        least = max(least, min(1.0, (len(found) - i) * one["p"]))
        one["p_holm"] = least
    return found


def power(blocks: int, spread: float, noise: float, signal: float, prior: float, trials: int = 4000) -> dict[str, Any]:
    """Shares of simulated experiments with p < .05 and p < .01, for each comparison.

    A network's quality is N(0, spread), and its test accuracy that plus N(0, noise). Finals take the best of
    `finals_paths` by a measure that correlates with quality by `signal`. Alpha's pool has qualities of mean
    prior * spread.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(trials, blocks, *shape, generator=generator)

    def arm(pool: int, shift: float) -> torch.Tensor:
        quality = normal(pool) + shift
        seen = signal * quality + (1 - signal**2) ** 0.5 * normal(pool)
        best = quality.gather(2, seen.argmax(2, keepdim=True)).squeeze(2)
        return spread * best + noise * normal()

    draws = spread * normal(RANDOM) + noise * normal(RANDOM)
    arms = {"random": draws.mean(2)}
    arms |= {"uniform": arm(SEARCH["finals_paths"], 0.0), "alpha": arm(SEARCH["finals_paths"], prior)}
    found: dict[str, Any] = {}
    for ours, theirs in COMPARISONS:
        p = stats.ttest_1samp((arms[ours] - arms[theirs]).numpy(), 0, axis=1).pvalue
        found[f"{ours} - {theirs}"] = {"p<.05": float((p < 0.05).mean()), "p<.01": float((p < 0.01).mean())}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.equal_size_chain", description=__doc__)
    parser.add_argument("--data", help="dataset of Config")
    parser.add_argument("--spread", type=int, metavar="NETWORKS", help="train so many random ones twice instead")
    parser.add_argument("--power", nargs=2, type=float, metavar=("SPREAD", "NOISE"), help="simulate instead, in points")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS), help="of the blocks")
    parser.add_argument("--work", type=Path, default=Path("runs/equal_size_chain"), help="folder for checkpoints")
    parser.add_argument("--out", type=Path, help="JSON file to write after each block; the blocks that it has count")
    parser.add_argument("--add", nargs="*", type=Path, default=[], help="files of other calls: their blocks count too")
    options = parser.parse_args()
    if options.power:
        table = Table("correlation of finals", "alpha's pool is better by", "comparison", "p < .05", "p < .01")
        for signal in (0.3, 0.5, 0.7):
            for prior in (0.0, 0.5, 1.0):
                for name, shares in power(len(options.seeds), *options.power, signal, prior).items():
                    table.row(signal, f"{prior} SD", name, *(f"{share:.2f}" for share in shares.values()))
        return
    torch.set_num_threads(1)
    if options.spread:
        networks, noise = spread(options.data, options.spread)
        print(f"networks: {networks:.2f} points, noise of a training: {noise:.2f} points")
        return
    about = summary(options)
    table = Table("seed", "seconds", *ARMS)
    earlier = [path for path in (options.out, *options.add) if path is not None and path.exists()]
    done = [one for path in earlier for one in json.loads(path.read_text())["blocks"]]
    for seed in options.seeds:
        if seed in {one["seed"] for one in done}:
            continue
        start = time.perf_counter(), time.process_time()
        found, records = block(options.data, seed, options.work / str(seed))
        means = {arm: statistics.fmean(100 * one.test_accuracy for one in found if one.arm == arm) for arm in ARMS}
        seconds = {"wall": time.perf_counter() - start[0], "processor": time.process_time() - start[1]}
        done.append(
            {"seed": seed, "points": means, "seconds": seconds}
            | {"networks": [one._asdict() for one in found], "finals": records}
        )
        table.row(seed, f"{seconds['processor']:.0f}", *(f"{value:.2f}" for value in means.values()))
        write(options.out, {**about, **PROTOCOL, "comparisons": compared(done), "blocks": done})
    done.sort(key=lambda one: one["seed"])
    write(options.out, {**about, **PROTOCOL, "comparisons": compared(done), "blocks": done})
    for one in compared(done):
        interval = f"{one['difference']:+.2f} points [{one['low']:.2f}, {one['high']:.2f}]"
        print(f"{one['ours']} - {one['theirs']}: {interval}, p = {one['p']:.2g}, Holm {one['p_holm']:.2g}")


if __name__ == "__main__":
    main()
