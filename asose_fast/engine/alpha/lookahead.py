"""Architectures sampled one step before they are needed, so that no step waits for the indices of its own path."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal, NamedTuple

from torch import Tensor

from asose_fast.engine.alpha.estimators import Draw, Estimator
from asose_fast.engine.alpha.selector import Path, Selector
from asose_fast.engine.phases import PhaseName

Kind = Literal["weight", "alpha"]


class WeightDraw(NamedTuple):
    """What a weight step runs: the mixture (L, K) of all candidates, or one candidate a layer."""

    mixture: Tensor | None
    path: Path | None


class _Pending(NamedTuple):
    kind: Kind
    phase: PhaseName
    sampled_from: Hashable
    drawn: WeightDraw | Draw
    rng: Tensor
    """The selector's, before the draw."""
    rng_after: tuple[int, int]


class Lookahead:
    """Draws for the steps of a search in their order, each, where `on`, while the step before it has yet to run.

    A draw depends on alpha, the temperature and the number of draws before it. A weight step changes none of them, so
    that the next draw can be queued on the device before the step's own kernels: its indices have long reached the host
    when they are asked for. After an alpha step the next draw follows at once, and waits for that step alone.

    What is drawn is what would be drawn without: where alpha, temperature or phase are not those that a pending draw
    was made from, it is taken back, and its place among the draws with it.
    """

    def __init__(self, selector: Selector, estimator: Estimator, on: bool) -> None:
        self.selector, self.estimator, self.on = selector, estimator, on
        self._pending: _Pending | None = None

    def weight(self, phase: PhaseName) -> tuple[Tensor | None, list[int] | None]:
        """The mixture or the path of the next weight step."""
        draw = self._take("weight", phase)
        assert isinstance(draw, WeightDraw)
        return draw.mixture, None if draw.path is None else list(draw.path.tolist())

    def alpha(self, phase: PhaseName) -> Draw:
        """The architecture of the next alpha step."""
        draw = self._take("alpha", phase)
        assert isinstance(draw, Draw)
        return draw.on_host()

    def prepare(self, kind: Kind, phase: PhaseName) -> None:
        """Draws for the next step, of this kind, where `on`."""
        if not self.on:
            return
        self.forget()
        before = self.selector.rng.clone()
        drawn = self._draw(kind, phase)
        self._pending = _Pending(kind, phase, self._sampled_from(), drawn, before, self._rng())

    def forget(self) -> None:
        """Takes a pending draw back, so that the selector's state is that of the steps done."""
        pending, self._pending = self._pending, None
        if pending is not None and pending.rng_after == self._rng():
            self.selector.rng.copy_(pending.rng)

    def _take(self, kind: Kind, phase: PhaseName) -> WeightDraw | Draw:
        pending = self._pending
        if pending is not None and pending[:3] == (kind, phase, self._sampled_from()):
            self._pending = None
            return pending.drawn
        self.forget()
        return self._draw(kind, phase)

    def _draw(self, kind: Kind, phase: PhaseName) -> WeightDraw | Draw:
        if kind == "alpha":
            return self.estimator.begin(self.selector, phase)
        mixture = self.estimator.mixture(self.selector, phase)
        return WeightDraw(mixture, self.selector.begin_path(phase) if mixture is None else None)

    def _sampled_from(self) -> Hashable:
        selector = self.selector
        alpha = tuple((id(row), row._version) for row in selector.alpha)
        return alpha, selector.temperature, tuple(selector.opening.items())

    def _rng(self) -> tuple[int, int]:
        return id(self.selector.rng), self.selector.rng._version
