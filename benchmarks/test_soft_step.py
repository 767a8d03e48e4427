"""What do the steps that need every candidate cost, in time and in memory, with the branches stacked and without?"""

import copy
import statistics

import pytest
import torch
from torch.nn import functional as F

from asose_fast.config import SpaceConfig
from asose_fast.ops import arch_weights
from asose_fast.space import Network, NetworkSpec
from benchmarks.baselines import EagerMixture
from benchmarks.measure import interleaved, ratio, saved_bytes
from benchmarks.test_training_step import BATCH, eager, ours

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def make(channels):
    torch.manual_seed(0)
    network = Network(NetworkSpec.chain(SpaceConfig(channels=channels), 3, 10))
    return network, torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))


def in_layout(network, x, layout):
    """Copies of one layout."""
    return copy.deepcopy(network).to(memory_format=LAYOUTS[layout]), x.contiguous(memory_format=LAYOUTS[layout])


def planned(network, fused, memory="save"):
    """The network with the plan of its mixed operations chosen."""
    for block in network.evolvable_blocks():
        block.mixed.fused, block.mixed.memory = fused, memory
    return network


def autocast(step):
    def run():
        with torch.autocast("cpu", torch.bfloat16):
            step()

    return run


@pytest.mark.parametrize("kind", ["alpha", "soft"])
def test_time(benchmark, report, with_compile, channels, kind):
    network, x, y = make(channels)
    variants = {f"eager {layout}": eager(*in_layout(network, x, layout), y)[kind] for layout in LAYOUTS}
    variants["eager nchw, bf16 autocast"] = autocast(eager(*in_layout(network, x, "nchw"), y)[kind])
    if with_compile:
        variants["torch.compile nhwc"] = eager(*in_layout(network, x, "nhwc"), y, compiled=True)[kind]
    plans = {"one by one": (False, "save"), "stacked, recomputing": (True, "recompute"), "stacked": (True, "save")}
    for name, plan in plans.items():
        clone, images = in_layout(network, x, "nhwc")
        variants[name] = ours(planned(clone, *plan), images, y)[kind]
    times = interleaved(variants, rounds=9 if channels == 16 else 5, warmup=1)
    row = f"six layers, C={channels}, batch {BATCH}: {kind} step"
    report(f"{row}, stacked", f"{1e3 * statistics.median(times['stacked']):.0f} ms")
    for name in list(variants)[:-1]:
        report(f"{row} / {name}", ratio(times[name], times["stacked"]))
    benchmark.pedantic(variants["stacked"], rounds=5)


def test_memory_of_a_soft_step(benchmark, report, channels):
    network, x, y = make(channels)
    weights = arch_weights(torch.randn(len(network.blocks), 10, requires_grad=True), 1.0, hard=False).weights

    def kept(model):
        return saved_bytes(lambda: F.cross_entropy(model(x, weights), y))

    nhwc, x = in_layout(network, x, "nhwc")
    baseline, one_by_one = kept(EagerMixture(nhwc)), kept(planned(nhwc, False))
    stacked = benchmark.pedantic(lambda: kept(planned(nhwc, True)))
    recomputing = kept(planned(nhwc, True, "recompute"))
    row = f"six layers, C={channels}, batch {BATCH}: saved by a soft step"
    report(f"{row} / eager", f"{baseline / stacked:.2f}x, {stacked / 2**20:.0f} of {baseline / 2**20:.0f} MiB")
    report(f"{row} / one by one", f"{one_by_one / stacked:.2f}x")
    report(f"{row} / eager, recomputing", f"{baseline / recomputing:.2f}x, {recomputing / 2**20:.0f} MiB")
    assert recomputing < stacked < one_by_one < baseline
