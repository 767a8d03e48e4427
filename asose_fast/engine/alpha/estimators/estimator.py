"""What every estimator of alpha's gradient has in common."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast.config import EstimatorConfig
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.host_copy import HostCopy
from asose_fast.engine.phases import PhaseName


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
    index: Tensor | None = None  # type: ignore[assignment]
    """int64 (L,): `path` on the device."""
    rows: HostCopy | None = None
    """Path and kept operations on their way to the host, (L, 1) or (L, 1 + kept a layer); `on_host` has them arrive."""

    def on_host(self) -> Draw:
        """The draw with `path` and `kept` as lists, once they are here."""
        if self.rows is None:
            return self
        rows = self.rows.tolist()
        kept = [tuple(row[1:]) for row in rows] if rows and len(rows[0]) > 1 else None
        return self._replace(path=[row[0] for row in rows], kept=kept, rows=None)


def sampled(weights: Tensor, index: Tensor, kept: Tensor | None = None, chance: Tensor | None = None) -> Draw:
    """A draw of the path `index` (L,), whose copy to the host, with that of `kept` (L, n), is under way."""
    rows = index[:, None] if kept is None else torch.cat([index[:, None], kept], 1)
    return Draw(weights, None, None, chance, index, HostCopy(rows))


def one_hot(index: Tensor, like: Tensor) -> Tensor:
    """Rows (L, K) in the shape and dtype of `like`, 1 at `index` (L,). (That of torch looks at the values first.)"""
    return torch.zeros_like(like).scatter_(1, index[:, None], 1.0)


class Estimator:
    """Draws architectures for alpha steps and weight steps. Everything but `begin` has a default that most can keep."""

    def __init__(self, config: EstimatorConfig) -> None:
        self.config = config

    def begin(self, selector: Selector, phase: PhaseName) -> Draw:
        """The architecture of the next alpha step, with its gradient path to `selector.alpha`, whose `path` and `kept`
        may still be on their way to the host (`sampled`)."""
        raise NotImplementedError

    def draw(self, selector: Selector, phase: PhaseName) -> Draw:
        """The same, with all that has to arrive."""
        return self.begin(selector, phase).on_host()

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
