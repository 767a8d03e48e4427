"""Acts on the signs of a collapse: a warning, or a return to the last healthy epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from asose_fast.config import GuardConfig
from asose_fast.engine.health import collapse
from asose_fast.engine.phases import Phase, first_search
from asose_fast.engine.record import Record

Remedy = Literal["nothing", "keep", "return"]
"""keep: the state is healthy, and is what a later epoch may return to; return: go back to what was kept last."""


@dataclasses.dataclass
class Guard:
    """Looks at every epoch of the phases search and growth when it ends (`collapse.signs`).

    With `guard: rollback` a search that collapses returns to the weights, the architecture and the optimizers of the
    last healthy epoch, and goes on from there with half the learning rate of alpha and other draws; time is not turned
    back, so that a run ends when it would have. After `guard_rollbacks` returns the architecture stays as it was in the
    last healthy epoch and no longer grows, which is the early stopping of Zela et al. (arXiv 1909.09656).
    """

    config: GuardConfig
    rollbacks: int = 0
    healthy: dict[str, Any] | None = None
    """The `search_state` of the end of the last healthy epoch, which the loop of the search keeps here."""

    @property
    def alpha_rate(self) -> float:
        """Factor of alpha's learning rate."""
        return 0.0 if self.frozen else 0.5**self.rollbacks

    @property
    def frozen(self) -> bool:
        """Whether the architecture stays as it is, alpha and size, for the rest of the search."""
        return self.rollbacks > self.config.guard_rollbacks

    def examine(self, phase: Phase, phases: Sequence[Phase], record: Record, history: Sequence[Record]) -> Remedy:
        """What is to be done at the end of an epoch; what is wrong and is done about it is noted in `record["guard"]`.

        Args:
            phase: of the epoch.
            phases: all of them.
            record: the metrics of the epoch.
            history: those of the epochs before it.
        """
        back = self.config.guard == "rollback"
        if self.config.guard == "off" or not phase.searching:
            return "keep" if back and not phase.searching and phase.of_supernet else "nothing"
        search = first_search(phases) or phase
        share_done = (record["epoch"] - search.first) / search.epochs
        found = collapse.signs(self.config, record, history, share_done)
        if not found:
            return "keep" if back else "nothing"
        if not back or self.healthy is None or self.frozen:
            record["guard"] = {"signs": found, "action": "warning"}
            return "nothing"
        self.rollbacks += 1
        action = f"back to the last healthy epoch, learning rate of alpha x {self.alpha_rate:g}"
        record["guard"] = {"signs": found, "action": action}
        return "return"

    def state_dict(self) -> dict[str, Any]:
        """Everything but the config."""
        return {"rollbacks": self.rollbacks, "healthy": self.healthy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.rollbacks, self.healthy = state["rollbacks"], state["healthy"]


def describe(record: dict[str, Any]) -> list[str]:
    """Of `record["guard"]`, for people."""
    return [f"collapse: {'; '.join(record['signs'])}: {record['action']}"] if record else []
