"""The phases and how many epochs each takes (docs/concepts.md)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from asose_fast.bounds import MOST_EPOCHS, Bounds, check_value
from asose_fast.config import TEMPERATURE, Config, PhaseConfig

PhaseName = Literal["warmup", "search", "growth", "finals", "optimize"]
PHASES: tuple[PhaseName, ...] = ("warmup", "search", "growth", "finals", "optimize")
SEARCHING: tuple[PhaseName, ...] = ("search", "growth")
"""The phases that update the architecture."""


@dataclasses.dataclass(frozen=True)
class PhaseSpec:
    """What one phase of a schedule does. Raises ValueError for what makes no sense.

    [PhaseSpec("warm", 5, updates="weights", architecture="uniform"),
     PhaseSpec("search", 20, temperature=2.0, boost=True),
     PhaseSpec("tune", 5, updates="weights", architecture="derived")]
    """

    name: str
    epochs: int
    updates: Literal["weights", "alpha", "both"] = "both"
    """both: every `alpha_every`-th batch an alpha step on a validation batch besides; alpha: one for every batch."""
    architecture: Literal["uniform", "sampled", "finalists", "derived"] = "sampled"
    """What weight steps run: uniformly random paths (as the setting `warmup` says), paths sampled from alpha, several
    networks apart from each other (`finals_paths`, `finals_from`), or one network alone, for which what is not part of
    it is dropped. This is the best of the finalists or, without any, the most probable one."""
    temperature: float | None = None
    """Of the samples, from the beginning of the phase on; None: it goes on from where it is."""
    boost: bool = False
    """Whether logits of undecided layers are boosted, and the temperature clamped, as in the phase search."""
    noise: bool = False
    """Whether `alpha_noise` is added to alpha when the phase begins."""

    def __post_init__(self) -> None:
        check_value(f"phase {self.name!r}: epochs", self.epochs, int, Bounds(least=1, most=MOST_EPOCHS))
        for field, known in (
            ("updates", ("weights", "alpha", "both")),
            ("architecture", ("uniform", "sampled", "finalists", "derived")),
        ):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"phase {self.name!r}: {field} must be one of {', '.join(known)}, got {getattr(self, field)!r}"
                )
        if self.architecture != "sampled" and self.updates != "weights":
            raise ValueError(
                f"phase {self.name!r} updates alpha, which needs architecture='sampled', got {self.architecture!r}"
            )
        check_value(f"phase {self.name!r}: temperature", self.temperature, float | None, TEMPERATURE)


STANDARD = {
    "warmup": PhaseSpec("warmup", 1, updates="weights", architecture="uniform"),
    "search": PhaseSpec("search", 1, boost=True, noise=True),
    "growth": PhaseSpec("growth", 1),
    "finals": PhaseSpec("finals", 1, updates="weights", architecture="finalists"),
    "optimize": PhaseSpec("optimize", 1, updates="weights", architecture="derived"),
}
"""What the phases do, whatever their length. During `growth` a network that can grow does so when it stalls."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a run; epochs count from the start of the run."""

    name: str
    first: int
    epochs: int
    spec: PhaseSpec | None = None
    """None: as the standard phase of this name."""

    @property
    def end(self) -> int:
        """The first epoch that no longer belongs to the phase."""
        return self.first + self.epochs

    @property
    def rules(self) -> PhaseSpec:
        """What the phase does."""
        return self.spec or STANDARD[self.name]

    @property
    def searching(self) -> bool:
        """Whether the architecture is updated."""
        return self.rules.updates != "weights"

    @property
    def derives(self) -> bool:
        """Whether the derived network alone is trained."""
        return self.rules.architecture == "derived"

    @property
    def of_supernet(self) -> bool:
        """Whether the supernet is trained."""
        return not (self.derives or self.finals)

    @property
    def finals(self) -> bool:
        """Whether several networks are trained against each other, and the supernet stays as it is."""
        return self.rules.architecture == "finalists"

    @property
    def grows(self) -> bool:
        """Whether the network may grow."""
        return self.spec is None and self.name == "growth"

    @property
    def mode(self) -> PhaseName:
        """The standard phase in whose way architectures are drawn (`Selector`)."""
        if self.rules.architecture == "uniform":
            return "warmup"
        return "search" if self.rules.boost else "growth"


def schedule(specs: Sequence[PhaseSpec]) -> tuple[Phase, ...]:
    """The phases of a run, one after the other. Raises ValueError for a schedule that cannot be run."""
    names = [spec.name for spec in specs]
    if not specs:
        raise ValueError("a schedule needs at least one phase")
    if len(set(names)) < len(names):
        raise ValueError(f"the phases of a schedule need names of their own, got {', '.join(names)}")
    derived = [spec.architecture == "derived" for spec in specs]
    if derived != sorted(derived):
        raise ValueError(f"after a derived network there is nothing to search: put {names[derived.index(True)]!r} last")
    for spec, following in zip(specs, [*specs[1:], None], strict=True):
        if spec.architecture == "finalists" and (following is None or following.architecture != "derived"):
            raise ValueError(f"the best of the finalists is derived: put a phase of it behind {spec.name!r}")
    return with_epochs([Phase(spec.name, 0, 0, spec) for spec in specs], [spec.epochs for spec in specs])


def first_search(phases: Sequence[Phase]) -> Phase | None:
    """The first phase that updates the architecture; None where none does."""
    return next((phase for phase in phases if phase.searching), None)


def plan(config: PhaseConfig, names: Sequence[PhaseName] = PHASES) -> tuple[Phase, ...]:
    """The phases of a run, those of `names`, and before the last one `finals` where they have epochs.

    Raises ValueError where a phase would have no epoch.
    """
    wanted = {*names, "finals"} if config.finals_epochs else {*names} - {"finals"}
    names = [name for name in PHASES if name in wanted]
    lengths: list[int] = [getattr(config, f"{name}_epochs") for name in names]
    if min(lengths) < 1:
        raise ValueError(f"every phase needs at least one epoch, got {dict(zip(names, lengths, strict=True))}")
    if config.epochs is not None:
        lengths = rescaled(lengths, config.epochs)
    return with_epochs([Phase(name, 0, 0) for name in names], lengths)


def with_epochs(phases: Sequence[Phase], epochs: Sequence[int]) -> tuple[Phase, ...]:
    """The phases with so many epochs each, one after the other."""
    firsts = [sum(epochs[:i]) for i in range(len(epochs))]
    return tuple(
        dataclasses.replace(phase, first=first, epochs=own)
        for phase, first, own in zip(phases, firsts, epochs, strict=True)
    )


def planned(config: Config, phases: Sequence[Phase]) -> Config:
    """The settings whose `plan` these phases are."""
    epochs: dict[str, Any] = {f"{phase.name}_epochs": phase.epochs for phase in phases}
    return dataclasses.replace(config, epochs=None, **epochs)


def phase_at(phases: tuple[Phase, ...], epoch: int) -> Phase:
    """The phase that an epoch belongs to."""
    return next(phase for phase in phases if epoch < phase.end)


def rescaled(lengths: Sequence[int], total: int) -> list[int]:
    """Lengths in proportion, at least 1 each, that add up to `total`; what rounding leaves goes to the largest loss."""
    if total < len(lengths):
        raise ValueError(f"epochs must be at least {len(lengths)}, one for each phase; got {total}")
    exact = [length * total / sum(lengths) for length in lengths]
    result = [max(1, int(x)) for x in exact]
    while sum(result) != total:
        step = 1 if sum(result) < total else -1
        movable = [i for i in range(len(result)) if result[i] + step >= 1]
        result[max(movable, key=lambda i: step * (exact[i] - result[i]))] += step
    return result
