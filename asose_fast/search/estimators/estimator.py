"""What every estimator of alpha's gradient has in common."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from asose_fast.config import EstimatorConfig
from asose_fast.search.phases import PhaseName
from asose_fast.search.selector import Selector


class Draw(NamedTuple):
    """The architecture of an alpha step: what the network runs, and how the gradient comes back.

    For the operations that run, autograd gives the estimate

        dL/da = sum_k c_k dw_k/da        c_k = dL/dw_k = <dL/dy, o_k(x)>
    """

    weights: Tensor
    """(L, K), a function of alpha."""
    path: list[int] | None
    """The operation whose output is the forward value of each layer: its weight is 1, that of the others 0. None where
    the value is the mixture of all."""
    kept: list[tuple[int, ...]] | None = None
    """The operations that run in each layer; None: all of them."""
    chance: Tensor | None = None
    """(L,): logarithm of the path's probability layer by layer, a function of alpha, where a baseline needs it."""


class Estimator:
    """Draws architectures for alpha steps and weight steps. Everything but `draw` has a default that most can keep."""

    def __init__(self, config: EstimatorConfig) -> None:
        self.config = config

    def draw(self, selector: Selector, phase: PhaseName) -> Draw:
        """The architecture of the next alpha step, with its gradient path to `selector.alpha`."""
        raise NotImplementedError

    def mixture(self, selector: Selector, phase: PhaseName) -> Tensor | None:
        """The weights (L, K), without gradient, that the next weight step mixes all operations with; None where it runs
        the operations of a sampled path alone."""
        return None

    def finish(self, draw: Draw) -> None:
        """Called after the backward pass of an alpha step: completes alpha's gradient, and learns."""

    def state_dict(self) -> dict[str, Any]:
        """What later draws depend on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
