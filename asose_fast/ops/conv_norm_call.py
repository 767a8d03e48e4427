"""The arguments of the operators behind `conv_norm`, as all of its backends take them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from asose_fast.ops.dense import Dense
from asose_fast.ops.norms import OneNorm


class Forward(NamedTuple):
    """Those of a forward pass. Without a shortcut there is no gain either."""

    x: Tensor
    weight: Tensor
    shortcut: Tensor | None
    gain: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    batches: Tensor | None
    of_batch: bool
    eps: float
    momentum: float
    down: int
    across: int
    relu: bool
    pool: int

    @property
    def norm(self) -> OneNorm:
        """The norm among them."""
        return OneNorm(*self[4:12])

    @property
    def conv(self) -> Dense:
        """The convolution, apart from its tensors."""
        return Dense(self.down, self.across, self.relu)


class Backward(NamedTuple):
    """Those of a backward pass: what forward had and gave, and which gradients are wanted."""

    grad: Tensor
    x: Tensor
    weight: Tensor
    z: Tensor
    shortcut: Tensor | None
    gain: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    tables: Tensor
    of_batch: bool
    down: int
    across: int
    relu: bool
    pool: int
    need_x: bool
    need_weight: bool
    need_shortcut: bool
    need_gain: bool
    need_affine: bool

    @property
    def conv(self) -> Dense:
        """The convolution, apart from its tensors."""
        return Dense(self.down, self.across, self.relu)
