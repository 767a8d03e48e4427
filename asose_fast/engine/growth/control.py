"""How a stalled network grows: which kind is next, what the ceilings allow, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from asose_fast.config import GrowthConfig
from asose_fast.engine.alpha.budget import BudgetError
from asose_fast.engine.alpha.budget_keeper import BudgetKeeper
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.growth.grow import add_candidate, deepen, next_position, next_stage, widen
from asose_fast.space.candidates import build_candidate
from asose_fast.space.channels import CannotWidenError
from asose_fast.space.cost import largest_derived
from asose_fast.space.network import Network, NetworkSpec

Event = dict[str, Any]


class _Growth(NamedTuple):
    """A growth that could be."""

    event: Event
    spec: NetworkSpec
    """Of the grown network."""
    act: Callable[[], None]


class _CeilingError(Exception):
    """A growth would break a bound; the message names it."""


class GrowthControl:
    """Grows a network by the kinds of the config in turn, within its ceilings. It has no state of its own."""

    def __init__(
        self, config: GrowthConfig, spec: NetworkSpec, image_size: int, keeper: BudgetKeeper | None = None
    ) -> None:
        """Raises ValueError for what could never grow: `spec` is the network at the start, for images of `image_size`
        pixels a side. `keeper` has the budget of the network to be derived: growth leaves one that keeps it."""
        self.config, self.image_size = config, image_size
        self.keeper = keeper
        if len(set(config.growth_kinds)) != len(config.growth_kinds):
            raise ValueError(f"growth_kinds must differ from each other, got {', '.join(config.growth_kinds)}")
        try:
            self._require_within_ceilings(spec)
        except _CeilingError as error:
            raise ValueError(f"at the start already, {error}") from error
        for name in config.growth_candidates:
            spec = spec.with_candidate(name)
            with torch.device("meta"):
                build_candidate(name, channels=2, stride=1)

    def grow(
        self,
        network: Network,
        selector: Selector,
        weight_optimizer: torch.optim.Optimizer,
        alpha_optimizer: torch.optim.Optimizer,
        history: Sequence[dict[str, Any]],
    ) -> Event | None:
        """Grows by the first kind that can be, beginning after the kind of the last growth in `history`.

        Returns what `describe` describes: the `kind`, "none" where none can be, its particulars, and under `skipped`
        the reason for each kind that was passed over; or None where no kind is left to try.
        """
        skipped: dict[str, str] = {}
        for kind in self._turns(selector.candidates, history):
            try:
                growth = self._growth(kind, network, selector, weight_optimizer, alpha_optimizer)
                self._require_within_ceilings(growth.spec)
                growth.act()
            except (_CeilingError, CannotWidenError) as error:
                skipped[kind] = str(error)
            else:
                event = growth.event
                if kind == "deeper":
                    event = {**event, "begins_as": _leading(selector, event["position"])}
                return {**event, "skipped": skipped} if skipped else event
        return {"kind": "none", "skipped": skipped} if skipped else None

    def _turns(self, candidates: Sequence[str], history: Sequence[dict[str, Any]]) -> list[str]:
        kinds: list[str] = list(self.config.growth_kinds)
        last = [r["growth"]["kind"] for r in history if r.get("growth")]
        first = next((kinds.index(kind) + 1 for kind in reversed(last) if kind in kinds), 0)
        left = set(self.config.growth_candidates) - set(candidates)
        return [kind for kind in kinds[first:] + kinds[:first] if kind != "branch" or left]

    def _growth(
        self,
        kind: str,
        network: Network,
        selector: Selector,
        weight_optimizer: torch.optim.Optimizer,
        alpha_optimizer: torch.optim.Optimizer,
    ) -> _Growth:
        config, spec = self.config, network.spec
        if kind == "deeper":
            depth, position = len(spec.blocks), next_position(network)
            if depth >= config.max_depth:
                raise _CeilingError(f"{depth} blocks are as many as max_depth = {config.max_depth} allows")
            return _Growth(
                {"kind": kind, "position": position, "depth": depth + 1},
                spec.deeper(position),
                lambda: deepen(network, selector, weight_optimizer, alpha_optimizer, position),
            )
        if kind == "wider":
            stage = next_stage(spec)
            before = spec.widths[stage]
            channels = max(before + 1, round(before * config.growth_factor))
            return _Growth(
                {"kind": kind, "stage": stage, "channels": channels, "before": before},
                spec.wider(stage, channels),
                lambda: widen(network, weight_optimizer, stage, channels, noise=config.growth_noise),
            )
        name = next(name for name in config.growth_candidates if name not in selector.candidates)
        return _Growth(
            {"kind": kind, "candidate": name, "candidates": len(selector.candidates) + 1},
            spec.with_candidate(name),
            lambda: add_candidate(network, selector, weight_optimizer, alpha_optimizer, name),
        )

    def _require_within_ceilings(self, spec: NetworkSpec) -> None:
        if self.keeper is not None:
            try:
                self.keeper.require_kept(spec)
            except BudgetError as error:
                raise _CeilingError(str(error)) from error
        bounds = (self.config.max_parameters, self.config.max_flops)
        if bounds == (None, None):
            return
        for name, value, bound in zip(
            ("parameters", "flops"), largest_derived(spec, self.image_size), bounds, strict=True
        ):
            if bound is not None and value > bound:
                raise _CeilingError(f"a network of {value:,} {name} could be derived, above max_{name} = {bound:,}")


def _leading(selector: Selector, row: int) -> str:
    """Returns the most probable candidate of a row."""
    return selector.candidates[int(selector.logits()[row].argmax())]


def describe(event: Event) -> list[str]:
    """What happened, a line for each kind that was tried. Blocks and stages count from 1, as in the report."""
    lines = [f"not grown {kind}: {reason}" for kind, reason in event.get("skipped", {}).items()]
    kind = event.get("kind")
    if kind == "deeper":
        idle = event.get("begins_as") == "skip_connect"
        lines.append(
            f"grown deeper: block {event['position'] + 1} is new, depth {event['depth']}"
            + ("; skip_connect leads in it, and where it stays so the block is left out in the end" if idle else "")
        )
    elif kind == "wider":
        lines.append(
            f"grown wider: stage {event['stage'] + 1} has {event['channels']} channels instead of {event['before']}"
        )
    elif kind == "branch":
        lines.append(f"grown by a branch: candidate {event['candidate']} is new, {event['candidates']} in each block")
    return lines
