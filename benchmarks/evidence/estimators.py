"""What each estimator of alpha's gradient is worth: `python -m benchmarks.evidence.estimators [--seeds 5] [--out FILE]`

Bias |E[g] - g*| and standard deviation of one estimate sqrt(E|g - E[g]|^2), both over |g*|, for a layer of ten
operations with random logits and a loss that is linear or quadratic in its weights; g* is the gradient of the expected
loss, by enumeration. Then the time of an alpha step and of a weight step on the six-layer network (batch 64, 32x32,
16 channels), and, with --seeds, the share of planted operations that a search with it finds
(`benchmarks.evidence.planted`).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from asose_fast.config import CANDIDATES, Config
from asose_fast.engine.alpha.estimators import ESTIMATORS, make_estimator
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.step.optimizers import alpha_optimizer, weight_optimizer
from asose_fast.engine.step.steps import alpha_step, weight_step
from benchmarks.evidence.planted import CPU, recover
from benchmarks.evidence.report import Table, summary, write
from benchmarks.measure import interleaved
from benchmarks.steps import CLIP, make

DRAWS = 50_000
TEMPERATURES = (0.5, 1.5)
"""The least of the search phase, and where it begins."""

Loss = Callable[[Tensor], Tensor]


class Quality(NamedTuple):
    """Relative to the norm of the exact gradient."""

    bias: float
    deviation: float


def problem(seed: int = 0) -> tuple[Tensor, dict[str, Loss]]:
    """Logits (K,) and losses of weights (n, K): a layer of ten operations."""
    generator = torch.Generator().manual_seed(seed)
    k = len(CANDIDATES)
    logits = 0.5 * torch.randn(k, generator=generator, dtype=torch.float64)
    costs = torch.randn(k, generator=generator, dtype=torch.float64)
    root = torch.randn(k, k, generator=generator, dtype=torch.float64) / k**0.5
    return logits, {"linear": lambda w: w @ costs, "quadratic": lambda w: w @ costs + (w @ root).square().sum(1)}


def quality(name: str, loss: Loss, logits: Tensor, temperature: float, draws: int = DRAWS) -> Quality:
    """Of `draws` independent estimates, rows of one table of logits."""
    a = logits.clone().requires_grad_()
    (a.softmax(0) * loss(torch.eye(len(a), dtype=torch.float64))).sum().backward()
    exact = a.grad
    config = Config(estimator=name, temperature=temperature)
    selector = Selector(config, CANDIDATES, 1, 0, CPU)
    table = logits.repeat(draws, 1).requires_grad_()
    selector.logits = lambda: table  # type: ignore[method-assign]
    estimator = make_estimator(config)
    draw = estimator.draw(selector, "growth")
    weights = draw.weights.double()
    if draw.kept is not None:  # what does not run gives no gradient
        kept = torch.zeros_like(weights).scatter(1, torch.tensor(draw.kept), 1.0)
        weights = torch.where(kept > 0, weights, weights.detach())
    loss(weights).sum().backward()
    estimator.finish(draw)
    estimates, norm = table.grad, exact.norm()
    mean = estimates.mean(0)
    return Quality(float((mean - exact).norm() / norm), float((estimates - mean).square().sum(1).mean().sqrt() / norm))


def step_times(rounds: int) -> dict[tuple[str, str], float]:
    """Median seconds of ("alpha" | "weight", estimator), interleaved."""
    network, x, y = make(64, 16)
    network = network.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    steps: dict[tuple[str, str], Callable[[], object]] = {}
    for name in ESTIMATORS:
        config = Config(estimator=name, learning_rate=0.0)
        selector, estimator = Selector(config, CANDIDATES, 6, 0, CPU), make_estimator(config)
        alpha, weights = alpha_optimizer(selector.alpha, 0.0), weight_optimizer(config, network)

        def take_alpha(selector=selector, estimator=estimator, alpha=alpha):
            return alpha_step(network, alpha, x, y, estimator.draw(selector, "search"), finish=estimator.finish)

        def take_weight(selector=selector, estimator=estimator, weights=weights):
            mixture = estimator.mixture(selector, "search")
            path = selector.path("search") if mixture is None else None
            return weight_step(network, weights, x, y, path, mixture=mixture, clip=CLIP)

        steps["alpha", name], steps["weight", name] = take_alpha, take_weight
    return {key: statistics.median(seconds) for key, seconds in interleaved(steps, rounds).items()}


def _recovered(job: tuple[str, int]) -> float:
    torch.set_num_threads(1)
    run = recover(job[1], estimator=job[0])
    return run.recovered / run.layers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.estimators", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="of timing; 0: none")
    parser.add_argument("--seeds", type=int, default=0, help="of planted architectures; 0: none")
    parser.add_argument("--processes", type=int, default=1, help="searches at a time")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    logits, losses = problem()
    times = step_times(options.rounds) if options.rounds else {}
    jobs = [(name, seed) for name in ESTIMATORS for seed in range(options.seeds)]
    with ProcessPoolExecutor(options.processes) as pool:
        shares = dict(zip(jobs, pool.map(_recovered, jobs), strict=True))
    columns = [f"{loss}, T={t}: bias / deviation" for loss in losses for t in TEMPERATURES]
    table = Table("estimator", *columns, "alpha step", "weight step", "planted found")
    rows = {}
    for name in ESTIMATORS:
        found = {f"{kind} {t}": quality(name, loss, logits, t) for kind, loss in losses.items() for t in TEMPERATURES}
        cells = [f"{q.bias:.2f} / {q.deviation:.1f}" for q in found.values()]
        for kind in ("alpha", "weight"):
            cells.append(f"{times[kind, name] * 1e3:.0f} ms" if times else "-")
        mine = [share for (key, _), share in shares.items() if key == name]
        cells.append(f"{statistics.mean(mine):.0%}" if mine else "-")
        table.row(name, *cells)
        rows[name] = {
            "quality": {key: q._asdict() for key, q in found.items()},
            "seconds": {kind: times[kind, name] for kind in ("alpha", "weight")} if times else None,
            "planted": mine,
        }
    write(options.out, {**summary(options), "estimators": rows})


if __name__ == "__main__":
    main()
