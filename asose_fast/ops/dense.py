"""What `dense_conv` computes, apart from its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from asose_fast.ops.checks import check_length


class Dense(NamedTuple):
    """What the convolution does, apart from its tensors."""

    down: int
    """The step from row to row; `across` is that from column to column."""
    across: int
    relu: bool

    @staticmethod
    def of(where: str, stride: int | tuple[int, int], relu: bool) -> Dense:
        """Of a step for both axes, or of (down, across). Raises ValueError for others."""
        steps = stride if isinstance(stride, tuple) else (stride, stride)
        check_length(f"{where}: stride", steps, 2, 2)
        return Dense(*steps, relu)

    @staticmethod
    def of_module(conv: nn.Conv2d, relu: bool) -> Dense:
        """What a module convolves, behind a ReLU or not."""
        down, across = conv.stride
        return Dense(down, across, relu)

    @property
    def stride(self) -> tuple[int, int]:
        """Both steps."""
        return self.down, self.across

    def out_shape(self, x: Tensor, weight: Tensor) -> tuple[int, int, int, int]:
        """The shape of the output."""
        return self.shape_for(x.shape, weight.shape)

    def shape_for(self, x: Sequence[int], weight: Sequence[int]) -> tuple[int, int, int, int]:
        """The same for tensors of these shapes."""
        n, _, height, width = x
        return n, weight[0], (height - 1) // self.down + 1, (width - 1) // self.across + 1


def padding(weight: Tensor) -> tuple[int, int]:
    """The zeros around x that keep its size at stride 1."""
    return weight.shape[2] // 2, weight.shape[3] // 2
