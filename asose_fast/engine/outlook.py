"""Whether a plan leaves a search the steps that it needs, before the first of them."""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import torch

from asose_fast.config import Config
from asose_fast.engine.alpha.selector import CLOSED, Selector
from asose_fast.engine.phases import PHASES, Phase, PhaseName, plan

TRAINED = 10
"""A candidate of fewer warmup steps is hardly trained when it is first judged. That many more would help is not shown:
at equal size, a warmup twice as long ranks networks no better (docs/evidence.md)."""


def shortcomings(
    config: Config, phases: Sequence[Phase], batches: int, selector: Selector, alpha_rate: float
) -> list[str]:
    """What the plan is too short for, in words, with the setting that mends it; nothing where it is long enough.

    - Alpha steps: Adam moves a logit by about its rate in each, and two logits towards each other by twice that. For a
      candidate that starts last to lead at the end, s steps must satisfy 2 s rate >= max a - min a, in the layer where
      the logits are farthest apart; `none`, which is to start last, does not count. With fewer steps the initial
      logits, which are random, decide.
    - Warmup steps: of s steps each of K candidates gets s / K, which must be `TRAINED` where K is largest. It is also
      said where one or more are likely to get none: s uniformly random paths leave one out with probability
      (1 - 1/K)^s.

    Args:
        config: of the search.
        phases: all of them.
        batches: of the training split, an epoch.
        selector: with alpha as it is at the start.
        alpha_rate: learning rate of alpha.
    """
    found = []
    steps, needed = alpha_steps(config, phases, batches), steps_to_decide(selector, alpha_rate)
    if steps < needed:
        found.append(
            f"{steps} alpha steps are planned, too few to decide anything: at alpha's learning rate of {alpha_rate:g} "
            f"it takes {needed} until any candidate could lead, and before that the random initial logits decide. "
            + _remedy(config, phases, "search", lambda longer: alpha_steps(config, longer, batches) >= needed)
            + (", or a larger alpha_learning_rate" if config.alpha_learning_rate is not None else "")
        )
    steps, count = _warmup(phases, batches), max(selector.open_counts())
    if steps and config.warmup == "uniform" and count > 1 and steps < TRAINED * count:
        left = left_out(selector, steps)
        found.append(
            f"{steps} warmup steps are {steps / count:.2g} for each of {count} candidates"
            + (f", and likely to leave out {left:.0f}" if left >= 1 else "")
            + f". Fewer than {TRAINED} hardly train a candidate before it is first judged. "
            + _remedy(config, phases, "warmup", lambda longer: _warmup(longer, batches) >= TRAINED * count)
        )
    return found


def alpha_steps(config: Config, phases: Sequence[Phase], batches: int) -> int:
    """As many as the phases will take."""
    alone = [phase for phase in phases if phase.rules.updates == "alpha"]
    both = [phase for phase in phases if phase.rules.updates == "both"]
    return _steps(alone, batches) + _steps(both, batches) // (config.alpha_every - 1)


def steps_to_decide(selector: Selector, rate: float) -> int:
    """Alpha steps until the last candidate of any layer could lead it; 0 where alpha is not to move at all, or has
    nothing but `none`."""
    if not rate:
        return 0
    counted = [k for k, name in enumerate(selector.candidates) if name != "none"]
    if not counted:
        return 0
    logits = selector.logits().detach()[:, counted].cpu()
    lowest = torch.where(logits > CLOSED / 2, logits, math.inf).amin(1)
    spread = (logits.amax(1) - lowest).clamp(min=0)  # of a layer of nothing but `none`: 0
    return math.ceil(float(spread.max()) / (2 * rate))


def left_out(selector: Selector, steps: int) -> float:
    """The expected number of candidates, over all layers, that no one of `steps` uniformly random paths has."""
    return sum((count * (1 - 1 / count) ** steps for count in selector.open_counts() if count > 1), 0.0)


def _steps(phases: Sequence[Phase], batches: int) -> int:
    return batches * sum(phase.epochs for phase in phases)


def _warmup(phases: Sequence[Phase], batches: int) -> int:
    return _steps([phase for phase in phases if phase.rules.architecture == "uniform"], batches)


def _remedy(config: Config, phases: Sequence[Phase], name: PhaseName, enough: Callable[[Sequence[Phase]], bool]) -> str:
    """The least value of the setting that makes the phase `name` long enough."""
    names = [known for known in PHASES if known in {phase.name for phase in phases if phase.spec is None}]
    if len(names) < len(phases):
        return "Give the phases of the schedule more epochs"
    if config.seconds is not None:
        return "Give more seconds"
    setting = f"{name}_epochs" if config.epochs is None else "epochs"

    def would_do(value: int) -> bool:
        longer: dict[str, Any] = {setting: value}
        return enough(plan(dataclasses.replace(config, **longer), names))

    value = getattr(config, setting)
    highest = value
    while not would_do(highest):
        highest *= 2
    return f"Give {setting} {value + bisect_left(range(value, highest), True, key=would_do)} or more"
