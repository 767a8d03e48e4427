"""Interleaved timing: every round runs each variant once, so that a drift of the machine meets all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch

Key = TypeVar("Key")


class Ratio(NamedTuple):
    """How many times faster than a baseline: median over rounds, with the quartiles."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        slower = " slower" if round(self.median, 2) < 1 else ""
        return f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}] n={self.rounds}{slower}"


class Interval(NamedTuple):
    """Median of a ratio over pairs, with its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    pairs: int

    @staticmethod
    def of(ratios: Sequence[float], resamples: int = 2000) -> Interval:
        """Of logarithms, so that a ratio and its inverse are as far from 1."""
        values = np.log(ratios)
        drawn = np.random.default_rng(0).choice(values, (resamples, len(values)))
        low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
        return Interval(*(float(np.exp(value)) for value in (np.median(values), low, high)), len(values))

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}] n={self.pairs}"


class Duration(NamedTuple):
    """A time."""

    seconds: float

    def __str__(self) -> str:
        milliseconds = 1e3 * self.seconds
        return f"{milliseconds:.2f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


class Size(NamedTuple):
    """An amount of memory."""

    bytes: int

    def __str__(self) -> str:
        return f"{self.bytes / 2**20:.0f} MiB"


_most_rounds: int | None = None


def limit_rounds(rounds: int) -> None:
    """Bounds the rounds of every later measurement, where only a dry run is wanted."""
    global _most_rounds
    _most_rounds = rounds


def interleaved(
    variants: dict[Key, Callable[[], object]], rounds: int = 15, warmup: int = 3, *, settle: bool = False
) -> dict[Key, list[float]]:
    """Seconds of each variant, round by round; with `settle` each after a call of its own that is not timed, for
    variants that leave each other memory of the wrong sizes."""
    if _most_rounds is not None:
        rounds, warmup = min(rounds, _most_rounds), min(warmup, 1)
    for _ in range(warmup):
        for run in variants.values():
            run()
    times: dict[Key, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            if settle:
                run()
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(baseline: list[float], ours: list[float]) -> Ratio:
    """Ratio of times, pair by pair of one round."""
    pairs = [b / o for b, o in zip(baseline, ours, strict=True)]
    low, _, high = statistics.quantiles(pairs, n=4)
    return Ratio(statistics.median(pairs), low, high, len(pairs))


def copier(megabytes: int) -> tuple[Callable[[], object], int]:
    """A large copy and the bytes that it reads and writes: the bandwidth that this machine has to give."""
    source = torch.randn(megabytes * 250_000)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.numel() * source.element_size()


def copy_fraction(ours: list[float], moved: int, copies: list[float], copied: int) -> str:
    """The bandwidth of `moved` bytes in the seconds `ours`, over that of `copier`'s bytes in the seconds `copies`."""
    bandwidth = statistics.median(copied / seconds for seconds in copies)
    fraction = statistics.median(moved / seconds for seconds in ours) / bandwidth
    return f"{fraction:.2f} of {bandwidth / 1e9:.1f} GB/s"
