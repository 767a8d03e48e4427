"""Acts on the signs of a collapse: a warning, or a return to the last healthy epoch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from asose_fast.config import GuardConfig
from asose_fast.search import collapse
from asose_fast.search.phases import first_search
from asose_fast.space.copying import deepcopy

if TYPE_CHECKING:
    from asose_fast.search.phases import Phase
    from asose_fast.search.trainer import Record, Trainer


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
    """What `Trainer.search_state` gave at the end of the last healthy epoch."""

    @property
    def alpha_rate(self) -> float:
        """Factor of alpha's learning rate."""
        return 0.0 if self.frozen else 0.5**self.rollbacks

    @property
    def frozen(self) -> bool:
        """Whether the architecture stays as it is, alpha and size, for the rest of the search."""
        return self.rollbacks > self.config.guard_rollbacks

    def examine(self, trainer: Trainer, phase: Phase, record: Record) -> bool:
        """Notes in `record["guard"]` what is wrong and what was done, and does it. True where it has turned back."""
        if self.config.guard == "off" or not phase.searching:
            if self.config.guard == "rollback" and not phase.searching and not phase.derives:
                self.healthy = deepcopy(trainer.search_state())
            return False
        search = first_search(trainer.phases) or phase
        share_done = (record["epoch"] - search.first) / search.epochs
        found = collapse.signs(self.config, record, trainer.history, share_done)
        if not found:
            if self.config.guard == "rollback":
                self.healthy = deepcopy(trainer.search_state())
            return False
        action = "warning"
        if self.config.guard == "rollback" and self.healthy is not None and not self.frozen:
            self.rollbacks += 1
            trainer.return_to(deepcopy(self.healthy))
            action = f"back to the last healthy epoch, learning rate of alpha x {self.alpha_rate:g}"
        record["guard"] = {"signs": found, "action": action}
        return action != "warning"

    def state_dict(self) -> dict[str, Any]:
        """Everything but the config."""
        return {"rollbacks": self.rollbacks, "healthy": self.healthy}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.rollbacks, self.healthy = state["rollbacks"], state["healthy"]


def describe(record: dict[str, Any]) -> list[str]:
    """Of `record["guard"]`, for people."""
    return [f"collapse: {'; '.join(record['signs'])}: {record['action']}"] if record else []
