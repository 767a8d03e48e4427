"""How much memory does a soft step take, at its peak and for its backward pass?

What is alive before the step does not count: weights, momentum and images. Gradients do, for ours and for eager alike.
"""

import torch

from benchmarks.measure import Size
from benchmarks.memory import peak_bytes, peak_in_fresh_process, saved_bytes
from benchmarks.steps import eager, make, ours

BASELINES = {
    "eager nchw": lambda *parts: eager("nchw", *parts),
    "eager nhwc": lambda *parts: eager("nhwc", *parts),
    "one by one": lambda *parts: ours(*parts, fused=False),
}
OURS = {
    "stacked": lambda *parts: ours(*parts, fused=True),
    "stacked, recomputing": lambda *parts: ours(*parts, fused=True, memory="recompute"),
}
VARIANTS = BASELINES | OURS


def soft_step(name, channels, batch):
    """The step of a variant, after a first one on few images: there is momentum, and no gradient."""
    steps = VARIANTS[name](*make(batch, channels))
    x, y = steps.x, steps.y
    steps.x, steps.y = x[:2], y[:2]
    steps.soft()
    steps.zero_grad()
    steps.x, steps.y = x, y
    return steps.soft


def test_peak_bytes_are_those_that_live_together():
    def step():
        a = torch.empty(1000)
        b = torch.empty(100)
        del a
        return b, torch.empty(500)

    assert peak_bytes(step) == 4400


def test_peak(benchmark, report, batch, channels, dry):
    """Live tensors, and resident pages as a check of that; resident pages with the pool, which keeps what was freed."""

    def peaks(names, pool):
        return {name: peak_in_fresh_process(soft_step, name, channels, batch, pool=pool) for name in names}

    alive = benchmark.pedantic(peaks, args=(["eager nhwc", "stacked"] if dry else list(VARIANTS), False))
    pooled = alive | peaks(alive.keys() & OURS.keys(), True)
    row = f"six layers, C={channels}, batch {batch}: peak of a soft step"
    tabulate(report, row, {name: peak.tensors for name, peak in alive.items()})
    tabulate(report, f"{row}, resident", {name: peak.resident for name, peak in alive.items()})
    tabulate(report, f"{row}, resident with the pool", {name: peak.resident for name, peak in pooled.items()})
    assert all(alive["stacked"].tensors < alive[name].tensors for name in alive.keys() & BASELINES.keys())


def test_saved(benchmark, report, batch, channels):
    parts = make(batch, channels)
    saved = benchmark.pedantic(
        lambda: {name: saved_bytes(variant(*parts).forward) for name, variant in VARIANTS.items()}
    )
    tabulate(report, f"six layers, C={channels}, batch {batch}: saved by a soft step", saved)
    assert saved["stacked, recomputing"] < saved["stacked"] < saved["one by one"] < saved["eager nhwc"]


def tabulate(report, row, sizes):
    for name, size in sizes.items():
        report(f"{row}, {name}", Size(size))
        for baseline in BASELINES if name in OURS else ():
            if baseline in sizes:
                report(f"{row}, {name} / {baseline}", f"{sizes[baseline] / size:.2f}x")
