"""Is the predicted latency the measured one? `python -m benchmarks.evidence.latency [--space S] [--networks N] ...`

Times the candidates of a supernet as a bound on the latency does, and predicts random networks by them. Then it times
these networks from end to end, in turn.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from asose_fast.config import Config
from asose_fast.presets import IMAGES
from asose_fast.space.build import Spec, build, make_spec
from asose_fast.space.latency import Target, candidate_latencies, network_latency
from asose_fast.space.prune import pruned_spec
from benchmarks.evidence.report import Table, summary, write

ROUNDS = 5
"""Every network is timed in so many turns, whose median counts."""


def compared(spec: Spec, image_size: int, target: Target, networks: int, seed: int) -> list[tuple[float, float]]:
    """Predicted and measured milliseconds of random networks."""
    latencies, supernet = candidate_latencies(spec, image_size, target), build(spec)
    table, rows = latencies.table(), torch.arange(spec.rows)
    generator = torch.Generator().manual_seed(seed)
    paths = torch.randint(table.shape[1], (networks, spec.rows), generator=generator)
    derived = [pruned_spec(supernet.derive(path.tolist()).spec) for path in paths]
    turns = [[network_latency(one, image_size, target).low for one in derived] for _ in range(ROUNDS)]
    predicted = [(latencies.rest.low + int(table[rows, path].sum())) / 1e6 for path in paths]
    return list(zip(predicted, (statistics.median(times) / 1e6 for times in zip(*turns, strict=True)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.latency", description=__doc__)
    parser.add_argument("--space", default="stages", choices=["chain", "stages", "nasbench201"])
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    target = Target(options.device, options.threads, options.batch)
    settings: dict[str, Any] = {**IMAGES, "depth": IMAGES["max_depth"]} if options.space == "stages" else {}
    spec = make_spec(Config(**{**settings, "space": options.space}), 3, 10, options.image_size)
    pairs = compared(spec, options.image_size, target, options.networks, options.seed)
    table = Table("predicted, ms", "measured, ms", "error")
    for predicted, measured in sorted(pairs):
        table.row(f"{predicted:.3f}", f"{measured:.3f}", f"{predicted / measured - 1:+.1%}")
    rank = float(stats.spearmanr(*zip(*pairs, strict=True)).statistic)
    error = statistics.median(abs(predicted / measured - 1) for predicted, measured in pairs)
    print(f"{target.words}: rank correlation {rank:.3f}, median error {error:.1%}")
    write(options.out, {**summary(options), "rank": rank, "median_error": error, "milliseconds": pairs})


if __name__ == "__main__":
    main()
