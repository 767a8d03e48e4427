"""How fast are the steps of the search that `asose-fast train` runs by default, beside eager networks that, like ours,
compute only what a step needs?"""

import statistics

import pytest

from benchmarks.measure import Duration, interleaved, ratio
from benchmarks.steps import LAYOUTS, check_equal, compiled, eager, make_default, ours, warm_up

FOUND = "res_conv_3x3"
"""Every block of the derived network has this candidate, as those that are found on CIFAR-10 mostly have."""
KINDS = {
    "weight": "weight step",
    "alpha": "alpha step",
    "cadence": "cadence step",
    "derived": "step of a derived network",
}


@pytest.mark.parametrize("side", [32, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_step(benchmark, report, with_compile, batch, side, kind):
    network, x, y = make_default(batch, side)
    if kind == "derived":
        network = network.derive([list(block.mixed.ops).index(FOUND) for block in network.evolvable_blocks()])
    variants = {f"eager {layout}, skipping": eager(layout, network, x, y, skipping=True) for layout in LAYOUTS}
    if with_compile and kind != "derived":
        variants["torch.compile nhwc, skipping"] = compiled(network, x, y, skipping=True)
    variants["ours"] = ours(network, x, y)
    if kind != "derived":
        warm_up(variants)
    for part in ["weight", "alpha"] if kind == "cadence" else [kind]:
        check_equal(variants, part)

    runs = {name: getattr(steps, kind) for name, steps in variants.items()}
    times = interleaved(runs, rounds=25, warmup=1)
    row = f"default search, {side}x{side}, batch {batch}: {KINDS[kind]}"
    report(row, Duration(statistics.median(times["ours"])))
    for name in list(variants)[:-1]:
        report(f"{row} / {name}", ratio(times[name], times["ours"]))
    benchmark.pedantic(runs["ours"], rounds=5)
