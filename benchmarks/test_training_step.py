"""How fast are the steps of a search, beside corrected eager networks that compute every candidate in every step?"""

import copy

import pytest
import torch
from torch.nn import functional as F

from asose_fast.config import OptimizerConfig, SelectorConfig, SpaceConfig
from asose_fast.ops import arch_weights
from asose_fast.search.optimizers import alpha_optimizer, weight_optimizer
from asose_fast.search.selector import Selector
from asose_fast.search.steps import alpha_step, weight_step
from asose_fast.space import Network, NetworkSpec
from benchmarks.baselines import EagerMixture
from benchmarks.measure import interleaved, ratio

BATCH = 64


def ours(network, x, y):
    """The three kinds of step, and the cadence: 4 weight steps and 1 alpha step."""
    config = SpaceConfig()
    selector = Selector(SelectorConfig(), config.candidates, config.depth, seed=0, device=torch.device("cpu"))
    weights = weight_optimizer(OptimizerConfig(), network)
    alpha = alpha_optimizer(selector.alpha, 0.01)

    def weight():
        weight_step(network, weights, x, y, selector.path("search"), clip=5.0)

    def architecture():
        sampled = selector.sample("search")
        alpha_step(network, alpha, x, y, sampled, sampled.index.tolist())

    def soft():
        sampled = selector.sample("search", hard=False)
        weights.zero_grad()
        F.cross_entropy(network(x, weights=sampled.weights), y).backward()
        weights.step()

    def cadence():
        for _ in range(4):
            weight()
        architecture()

    return {"weight": weight, "alpha": architecture, "soft": soft, "cadence": cadence}


def eager(network, x, y, compiled=False):
    """The same steps with every candidate computed and every gradient of the step taken."""
    mixture = EagerMixture(network)
    if compiled:
        for block in network.evolvable_blocks():
            block.mixed.ops = torch.nn.ModuleDict({k: torch.compile(op) for k, op in block.mixed.ops.items()})
    logits = torch.randn(len(network.blocks), 10, requires_grad=True)
    weights = weight_optimizer(OptimizerConfig(), network)
    alpha = alpha_optimizer([logits], 0.01)

    def step(optimizer, hard=True):
        sampled = arch_weights(logits, 1.0, hard=hard)
        optimizer.zero_grad()
        F.cross_entropy(mixture(x, sampled.weights), y).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()

    def cadence():
        for _ in range(4):
            step(weights)
        step(alpha)

    return {
        "weight": lambda: step(weights),
        "alpha": lambda: step(alpha),
        "soft": lambda: step(weights, hard=False),
        "cadence": cadence,
    }


@pytest.mark.parametrize("kind", ["weight", "alpha", "soft", "cadence"])
def test_step(benchmark, report, with_compile, kind):
    torch.manual_seed(0)
    network = Network(NetworkSpec.chain(SpaceConfig(), 3, 10))
    x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
    last = torch.channels_last
    variants = {
        "eager nchw": eager(copy.deepcopy(network), x, y)[kind],
        "eager nhwc": eager(copy.deepcopy(network).to(memory_format=last), x.to(memory_format=last), y)[kind],
    }
    if with_compile:
        clone = copy.deepcopy(network).to(memory_format=last)
        variants["torch.compile nhwc"] = eager(clone, x.to(memory_format=last), y, compiled=True)[kind]
    variants["ours"] = ours(network.to(memory_format=last), x.to(memory_format=last), y)[kind]
    times = interleaved(variants, rounds=5 if kind == "cadence" else 9, warmup=1)
    for name in list(variants)[:-1]:
        report(f"six layers, C=16, batch {BATCH}: {kind} step / {name}", ratio(times[name], times["ours"]))
    benchmark.pedantic(variants["ours"], rounds=5)
