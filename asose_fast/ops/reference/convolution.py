"""A convolution of a stage as a function of its input."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from asose_fast.ops.dtypes import accumulation_dtype


def convolution(weight: Tensor, stride: int, padding: int, dilation: int, x: Tensor) -> Callable[[Tensor], Tensor]:
    """A convolution in the accumulation dtype of x, whose groups are told from the shape of the weight."""
    return functools.partial(
        F.conv2d,
        weight=weight.to(accumulation_dtype(x.dtype)),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=x.shape[1] // weight.shape[1],
    )
