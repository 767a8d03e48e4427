"""How fast are the steps of a search, beside eager networks that compute everything, or only what a step needs?"""

import statistics

import pytest

from benchmarks.measure import Duration, interleaved, ratio
from benchmarks.steps import LAYOUTS, check_equal, compiled, eager, make, ours, warm_up


@pytest.mark.parametrize("kind", ["weight", "cadence"])
def test_step(benchmark, report, with_compile, batch, kind):
    parts = make(batch)
    variants = {}
    for layout in LAYOUTS:
        variants[f"eager {layout}"] = eager(layout, *parts)
        variants[f"eager {layout}, skipping"] = eager(layout, *parts, skipping=True)
    if with_compile:
        variants["torch.compile nhwc"] = compiled(*parts)
        variants["torch.compile nhwc, skipping"] = compiled(*parts, skipping=True)
    variants["ours"] = ours(*parts)
    warm_up(variants)
    for part in ["weight", "alpha"] if kind == "cadence" else [kind]:
        check_equal(variants, part)

    runs = {name: getattr(steps, kind) for name, steps in variants.items()}
    times = interleaved(runs, rounds=9 if kind == "cadence" else 25, warmup=1)
    if kind == "cadence":  # every round takes other paths: more rounds, of those variants whose rounds are short
        short = {name: run for name, run in runs.items() if variants[name].skipping}
        for name, more in interleaved(short, rounds=16, warmup=0).items():
            times[name] += more
    row = f"six layers, C=16, batch {batch}: {kind} step"
    report(row, Duration(statistics.median(times["ours"])))
    for name in list(variants)[:-1]:
        report(f"{row} / {name}", ratio(times[name], times["ours"][: len(times[name])]))
    benchmark.pedantic(runs["ours"], rounds=5)
