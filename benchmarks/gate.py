"""Are we still as much faster than eager PyTorch as we were? `python -m benchmarks.gate [--update]`

In one process, pair by pair: time(ours) / time(eager, channels_last), and of the pairs the median with its bootstrap
interval. A case is suspicious when the lower end is above 1.25 times the ratio that benchmarks/results/gate.json has
for this processor; it is then measured again, and fails when it is suspicious twice in a row. On a processor that is
not in that file nothing fails. `--update` stores the medians for this one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import cases, record
from benchmarks.baselines import eager_mixed_sum
from benchmarks.measure import Interval, interleaved
from benchmarks.steps import eager, make, ours, warm_up
from benchmarks.test_multi_depthwise import eager as eager_depthwise

STORED = Path(__file__).resolve().parent / "results" / "gate.json"
TOLERANCE = 1.25
"""On a shared machine the same ratio has moved by a fifth from day to day. `benchmarks.compare` sees less than that."""
PAIRS = 15
SHAPE = (16, 16, 32, 32)
Pair = tuple[cases.Run, cases.Run]


def mixed_sum() -> Pair:
    leaves = [cases.leaf(10), *(cases.leaf(*SHAPE) for _ in range(10))]
    return cases.mixed_sum(*SHAPE), cases.gradients(lambda w, *xs: eager_mixed_sum(xs, w), *leaves)


def multi_depthwise() -> Pair:
    leaves = [cases.leaf(*SHAPE), *(cases.leaf(SHAPE[1], 1, k, k) for k, _ in cases.BRANCHES)]
    return cases.multi_depthwise(*SHAPE), cases.gradients(eager_depthwise, *leaves)


def step(kind: str) -> Pair:
    parts = make(16)
    mine, theirs = ours(*parts), eager("nhwc", *parts, skipping=kind != "soft")
    warm_up({"ours": mine, "eager": theirs})
    return getattr(mine, kind), getattr(theirs, kind)


CASES: dict[str, Callable[[], Pair]] = {
    "mixed_sum": mixed_sum,
    "multi_depthwise": multi_depthwise,
    "soft step": lambda: step("soft"),
    "alpha step": lambda: step("alpha"),
}


def measure(name: str) -> Interval:
    torch.manual_seed(0)
    mine, theirs = CASES[name]()
    times = interleaved({"ours": mine, "eager": theirs}, PAIRS)
    return Interval.of([a / b for a, b in zip(times["ours"], times["eager"], strict=True)])


def suspicious(interval: Interval, stored: float | None) -> bool:
    return stored is not None and interval.low > TOLERANCE * stored


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="store the ratios as those of this processor")
    options = parser.parse_args(arguments)
    machine = "{cpu}, {instruction_set}, {threads} threads, torch {torch}".format(**record.environment())
    known = json.loads(STORED.read_text()) if STORED.exists() else {}
    stored: dict[str, float] = known.get(machine, {})
    print(machine if stored or options.update else f"{machine}: nothing is stored for it, so nothing can fail")
    failed, medians = [], {}
    for name in CASES:
        interval = measure(name)
        medians[name] = round(interval.median, 4)
        print(f"{name:16s} ours / eager {interval!s:34s} stored {stored.get(name)}", flush=True)
        if suspicious(interval, stored.get(name)) and not options.update:
            again = measure(name)
            failed += [name] if suspicious(again, stored.get(name)) else []
            print(f"warning: {name} is slower than it was; again: {again}", flush=True)
    if options.update:
        STORED.write_text(json.dumps(known | {machine: medians}, indent=1) + "\n")
    if failed:
        print(f"slower, twice in a row: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
