"""What `line_conv` computes, apart from its tensors."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Line(NamedTuple):
    """What the convolution does, apart from its tensors."""

    stride: int
    """The step along the axis; across it the step is 1."""
    vertical: bool
    """k x 1, and not 1 x k."""
    relu: bool

    def along(self, size: int) -> tuple[int, int]:
        """(size, 1) for the height and the width where the convolution is vertical, else (1, size)."""
        return (size, 1) if self.vertical else (1, size)

    def padding(self, weight: Tensor) -> tuple[int, int]:
        """The zeros around x that keep its size at stride 1."""
        return weight.shape[2] // 2, weight.shape[3] // 2

    def out_shape(self, x: Tensor, weight: Tensor) -> tuple[int, int, int, int]:
        """The shape of the output."""
        n, _, height, width = x.shape
        down, across = self.along(self.stride)
        return n, weight.shape[0], (height - 1) // down + 1, (width - 1) // across + 1
