"""What do the steps that need every candidate cost, with the branches stacked and without?"""

import statistics

import pytest

from asose_fast.config import CANDIDATES
from benchmarks.measure import Duration, interleaved, ratio
from benchmarks.steps import DARTS, LAYOUTS, check_equal, compiled, eager, make, ours, warm_up

PLANS = {"one by one": (False, "save"), "stacked, recomputing": (True, "recompute"), "stacked": (True, "save")}


def pytorch_forms(kind, parts, with_compile, with_bf16):
    """A step in PyTorch as it can be had: all gradients of an alpha step, too, and only those that it uses."""
    skipping, suffix = (True, ", skipping") if kind == "alpha" else (False, "")
    forms = {f"eager {layout}": eager(layout, *parts) for layout in LAYOUTS}
    for layout in LAYOUTS:
        forms[f"eager {layout}{suffix}"] = eager(layout, *parts, skipping=skipping)
        if with_bf16:
            forms[f"eager {layout}{suffix}, bf16 autocast"] = eager(layout, *parts, skipping=skipping, autocast=True)
    if with_compile:
        forms[f"torch.compile nhwc{suffix}"] = compiled(*parts, skipping=skipping)
        forms["torch.compile nhwc, whole"] = compiled(*parts, whole=True)
    return forms


@pytest.mark.parametrize("candidates", [CANDIDATES, DARTS], ids=["ten", "darts"])
@pytest.mark.parametrize("kind", ["alpha", "soft"])
def test_time(benchmark, report, with_compile, with_bf16, batch, channels, kind, candidates):
    parts = make(batch, channels, candidates)
    forms = pytorch_forms(kind, parts, with_compile, with_bf16)
    variants = forms | {name: ours(*parts, *plan) for name, plan in PLANS.items()}
    if kind == "alpha":
        warm_up(variants)
    rounded = check_equal(variants, kind)

    runs = {name: getattr(steps, kind) for name, steps in variants.items()}
    times = interleaved(runs, rounds=9 if channels == 16 else 5, warmup=1)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    row = f"six layers, {len(candidates)} candidates, C={channels}, batch {batch}: {kind} step"
    report(row, Duration(medians["stacked"]))
    for name in list(variants)[:-1]:
        report(f"{row} / {name}", ratio(times[name], times["stacked"]))
    for name, error in rounded.items():
        report(f"{row}, {name}: loss or gradients off by", f"{error:.2g} of their norm")
    best = min(forms, key=medians.__getitem__)
    report(f"{row} / best PyTorch form ({best})", ratio(times[best], times["stacked"]))
    benchmark.pedantic(runs["stacked"], rounds=5)
