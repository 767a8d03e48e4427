"""A target: where its inputs come from, and what takes them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st


class Finding(AssertionError):
    """An input was neither taken nor refused as documented."""


@dataclasses.dataclass(frozen=True)
class Target:
    """`check` returns whether it took an input (False: it refused it as documented), and lets other errors pass."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], bool]


def run(target: Target, examples: int, number: int, told: Callable[[bool], None] = lambda _: None) -> Counter[bool]:
    """Gives a target so many inputs, the same ones for the same number. Returns how many were taken and refused.

    `told` hears of each. Raises what the target raised, with the smallest such input that hypothesis found.
    """
    counts: Counter[bool] = Counter()

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        print_blob=False,
    )
    @given(target.inputs)
    def give(value: Any) -> None:
        taken = target.check(value)
        counts[taken] += 1
        told(taken)

    give()
    return counts


def refused(call: Callable[[], object], *documented: type[BaseException]) -> bool:
    """Whether `call` raised one of these errors, with a message; lets others pass."""
    try:
        call()
    except documented as error:
        if not str(error).strip():
            raise Finding(f"{type(error).__name__} without a message") from error
        return True
    return False
