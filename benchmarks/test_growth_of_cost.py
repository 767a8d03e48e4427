"""How does the time of our soft step grow with the batch, the depth and the threads?"""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch

from asose_fast.config import CANDIDATES, SpaceConfig
from asose_fast.space import BlockSpec, Network, NetworkSpec
from benchmarks.measure import interleaved, ratio
from benchmarks.steps import LAYOUTS, check_equal, eager, make, ours

CHAINS = {
    "all of 16 channels on 32x32": lambda depth: NetworkSpec(3, 10, 16, (BlockSpec(CANDIDATES, 16, 16),) * depth),
    # From four blocks on, every further one has 64 channels on 8x8.
    "the search's own": lambda depth: NetworkSpec.chain(SpaceConfig(depth=depth), 3, 10),
}


class Growth(NamedTuple):
    """How a time t grows with a size n."""

    exponent: float
    """Of n in t: below 1 where a part of t is constant."""
    increments: float
    """Of n - n0 in t - t0, n0 the smallest size, which any constant part drops out of: 1 where t = a + b n."""
    constant: float
    """a in seconds, of the fit a + b n that is best in relative deviation."""
    slope: float
    """b in seconds."""
    deviation: float
    """The largest relative deviation from that fit."""

    @staticmethod
    def of(sizes: Sequence[int], seconds: Sequence[float]) -> Growth:
        """Least squares over sizes in rising order."""
        n, t = np.array(sizes, float), np.array(seconds)
        slope, constant = np.polyfit(n, t, 1, w=1 / t)
        deviation = np.abs(t / (constant + slope * n) - 1).max()
        more = t[1:] - t[0]
        increments = _exponent(n[1:] - n[0], more) if (more > 0).all() else float("nan")
        return Growth(_exponent(n, t), increments, constant, slope, deviation)

    def __str__(self) -> str:
        return (
            f"n^{self.exponent:.2f}, increments n^{self.increments:.2f}; "
            f"{1e3 * self.constant:.1f} ms + n {1e3 * self.slope:.2f} ms, within {self.deviation:.0%}"
        )


def _exponent(n: np.ndarray, t: np.ndarray) -> float:
    return float(np.polyfit(np.log(n), np.log(t), 1)[0])


def test_the_fit_finds_the_law():
    n = [16, 32, 64, 128, 256]
    linear = Growth.of(n, [0.5 + 0.01 * size for size in n])
    assert linear == pytest.approx(Growth(linear.exponent, 1, 0.5, 0.01, 0))
    assert linear.exponent < 0.7
    square = Growth.of(n, [0.01 * size**2 for size in n])
    assert square.exponent == pytest.approx(2)
    assert square.deviation > 0.1


def grown(benchmark, report, row, runs, rounds=7):
    """Reports the medians of runs by size, and their growth."""
    times = interleaved(runs, rounds, warmup=1, settle=True)
    medians = {size: statistics.median(seconds) for size, seconds in times.items()}
    report(f"{row}, ms by n", {size: round(1e3 * seconds, 1) for size, seconds in medians.items()})
    report(f"{row}, growth", Growth.of(list(medians), list(medians.values())))
    benchmark.pedantic(runs[min(runs)], rounds=3)


def test_batch(benchmark, report, dry):
    sizes = [1, 2, 4] if dry else [16, 32, 64, 128, 256]
    network, x, y = make(max(sizes))
    runs = {size: ours(network, x[:size], y[:size]).soft for size in sizes}
    grown(benchmark, report, "soft step of six layers, C=16, n images", runs)


@pytest.mark.parametrize("chain", CHAINS)
def test_depth(benchmark, report, batch, dry, chain):
    depths = [4, 5, 6] if dry else [4, 6, 12, 24]
    _, x, y = make(batch)
    runs = {depth: ours(Network(CHAINS[chain](depth)), x, y).soft for depth in depths}
    grown(benchmark, report, f"soft step of n blocks, {chain}, batch {batch}", runs)


def test_threads(benchmark, report, batch, dry):
    parts = make(batch)
    variants = {"ours": ours(*parts)} | {f"eager {layout}": eager(layout, *parts) for layout in LAYOUTS}
    check_equal(variants, "soft")
    before = torch.get_num_threads()
    # A dry run may share its cores, where more than one thread can take a hundred times as long.
    counts = [1] if dry else [count for count in (1, 2, 4, 8, 16, 32) if count <= os.cpu_count()]

    def on(threads, steps):
        def run():
            torch.set_num_threads(threads)
            steps.soft()

        return run

    runs = {(name, threads): on(threads, steps) for name, steps in variants.items() for threads in counts}
    try:
        times = interleaved(runs, rounds=7, warmup=1)
        benchmark.pedantic(runs["ours", counts[-1]], rounds=3)
    finally:
        torch.set_num_threads(before)
    for (name, threads), seconds in times.items():
        row = f"soft step of six layers, C=16, batch {batch}, {name}: {threads} threads / 1"
        report(row, f"{ratio(times[name, 1], seconds)}, {1e3 * statistics.median(seconds):.0f} ms")
