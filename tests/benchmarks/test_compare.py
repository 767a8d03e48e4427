"""The comparison of two commits: its statistics, its verdicts, its planted slowdown and its processes."""

import argparse
import contextlib
import random
import re

import pytest

from benchmarks import compare
from benchmarks.cases import CASES
from benchmarks.checkouts import SHARES, Checkout, Plant, checkout, planted
from benchmarks.measure import Interval
from tests.helpers import ROOT

HERE = Checkout("this checkout", [ROOT])
OPTIONS = argparse.Namespace(pairs=15, threshold=1.05, threads=1)


class Simulated:
    """A worker whose calls take `seconds`, times noise that now and then is large."""

    def __init__(self, seconds, seed):
        self.mean, self.noise = seconds, random.Random(seed)

    def prepare(self, case): ...

    def seconds(self, calls):
        outlier = 3 if self.noise.random() < 0.1 else 1
        return self.mean * self.noise.lognormvariate(0, 0.05) * outlier


def judged(monkeypatch, *factors):
    """The verdict where HEAD takes so many times as long, in one pair of processes after the other."""
    queue = list(factors)

    @contextlib.contextmanager
    def workers(trees, threads):
        yield [Simulated(1, len(queue)), Simulated(queue.pop(0), 9)]

    monkeypatch.setattr(compare, "workers", workers)
    [entry] = compare.compare([HERE, HERE], ["case"], OPTIONS)
    return entry["verdict"]


@pytest.mark.parametrize(
    ("factors", "verdict"),
    [
        ((1, 1), "as fast"),
        ((1.2, 1.2, 1.2, 1.2), "slower"),
        ((1.2, 1.2, 1, 1), "as fast"),
        ((0.8, 0.8), "faster"),
        ((1.02, 1.02), "as fast"),
    ],
)
def test_slower_is_what_is_slower_twice(monkeypatch, factors, verdict):
    assert judged(monkeypatch, *factors) == verdict


def test_a_process_that_is_slow_by_chance_is_no_slower_commit(monkeypatch):
    assert judged(monkeypatch, 1.3, 0.8, 1.3, 0.8) == "as fast"


def test_the_interval_holds_the_median_and_forgets_outliers():
    interval = Interval.of([1.19, 1.2, 1.21] * 5 + [9.0])
    assert interval.low <= interval.median <= interval.high
    assert interval.median == pytest.approx(1.2)
    assert interval.high < 1.25


def test_processes_run_every_case():
    with compare.workers([HERE, HERE], threads=1) as pair:
        for worker in pair:
            worker.prepare("mixed_sum, (2, 16, 8, 8)")
            assert worker.seconds(3) > 0
        with pytest.raises(compare.Unmeasurable, match="KeyError: 'no such case'"):
            pair[0].prepare("no such case")


def test_every_case_can_be_prepared():
    for case in CASES.values():
        assert callable(case())


@pytest.mark.parametrize("op", SHARES)
def test_a_slowdown_can_be_planted(op):
    source = (ROOT / "csrc" / "bindings" / f"{op}.cpp").read_text()
    text = planted(source, Plant.parse(f"{op}=1.2"))
    assert len(re.findall(r"run_slowly\(\s*device::", text)) == 2
    with pytest.raises(ValueError, match="not what"):
        planted(text, Plant(op, 1.2))


@pytest.mark.parametrize("text", ["conv=1.2", "mixed_sum=0.5", "mixed_sum=x"])
def test_what_cannot_be_planted(text):
    with pytest.raises(ValueError, match=r"convert|planted"):
        Plant.parse(text)


def test_no_commit():
    with pytest.raises(ValueError, match="'nowhere' names no commit"), checkout("nowhere"):
        pass
