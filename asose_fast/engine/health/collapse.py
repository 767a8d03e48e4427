"""Signs that a search is collapsing, from the metrics of its epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from asose_fast.config import GuardConfig
from asose_fast.engine.metric import Metric

WITHOUT_WEIGHTS = ("none", "skip_connect", "avg_pool_3x3", "max_pool_3x3")
"""Candidates that learn nothing: what DARTS collapses to."""
WINDOW = 5
"""Epochs that an eigenvalue is averaged over."""
EARLY_ENTROPY = 0.1
"""Of the largest entropy, ln K: a search that is so sure in its first half has not compared."""


def idle_mass(probabilities: Tensor, candidates: Sequence[str]) -> float:
    """Mean over layers of the probability of all candidates without weights; `probabilities` is (L, K)."""
    idle = [k for k, name in enumerate(candidates) if name in WITHOUT_WEIGHTS]
    return float(probabilities[:, idle].sum(1).mean())


def signs(
    config: GuardConfig, record: dict[str, Any], history: Sequence[dict[str, Any]], share_done: float
) -> list[str]:
    """What is wrong with an epoch of the phases search and growth, in words; nothing where all is well.

    - The accuracy of sampled paths is below `guard_accuracy` of the warmup's last: how the original failed. So for
      any score from 0 up. One below 0 is a loss with the sign changed, whose share says nothing: it may rise by
      1 - `guard_accuracy` of the largest loss of the warmup's epochs, the span that its training went through.
    - More than `guard_idle` of the probability that candidates with weights had at the warmup's end has gone to those
      without: how DARTS fails. Where most candidates have no weights, these begin with most of the probability.
    - The entropy is below a tenth of its largest in the first half of the search, where there is something to compare.
    - The Hessian's eigenvalue, its mean over 5 epochs, has grown by more than `guard_curvature` since 5 epochs before
      (arXiv 1909.09656), where it is measured (`curvature_every`).

    Args:
        config: the bounds.
        record: of the epoch, with `train_accuracy`, `idle_mass`, `entropy`, `candidates` (K), maybe `curvature` and,
            where what is called accuracy is none, what says so (`Metric.said`).
        history: of all epochs before; of the warmup's, `train_accuracy` and `idle_mass`.
        share_done: of the phase search, from 0 to 1.
    """
    found = []
    warmup = [r for r in history if r["phase"] == "warmup"]
    if warmup:
        now, scores = record["train_accuracy"], [r["train_accuracy"] for r in warmup]
        before = scores[-1]
        scale = before if before >= 0 else -min(scores)
        if before - now > (1 - config.guard_accuracy) * scale:
            metric = Metric.of(record)
            then = f"after {metric.shown(before)} at the warmup's end"
            found.append(f"{metric.name} of sampled paths {metric.shown(now)}, {then}")
        now, before = record["idle_mass"], warmup[-1]["idle_mass"]
        if now - before > config.guard_idle * (1 - before):
            found.append(f"{now:.0%} of the probability on operations without weights, after {before:.0%}")
    largest = math.log(record["candidates"])
    compares = record["candidates"] > 1  # one alone is a network as it is, a baseline
    if compares and share_done <= 0.5 and record["entropy"] < EARLY_ENTROPY * largest:
        found.append(f"entropy {record['entropy']:.2f} of {largest:.2f} in the first half of the search")
    values = [r["curvature"] for r in [*history, record] if r.get("curvature") is not None]
    if record.get("curvature") is not None and len(values) >= 2 * WINDOW:
        now, before = sum(values[-WINDOW:]) / WINDOW, sum(values[-2 * WINDOW : -WINDOW]) / WINDOW
        if before > 0 and now > config.guard_curvature * before:
            found.append(f"curvature {now:.3g}, {now / before:.2f} times that of {WINDOW} epochs before")
    return found
