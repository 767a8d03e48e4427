"""The arguments of the operators behind `separable_norm`, as all of its backends take them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.norms import OneNorm


class Forward(NamedTuple):
    """Those of a forward pass through S stages. With a gain and without a shortcut, x is the shortcut."""

    x: Tensor
    depthwise: list[Tensor]
    pointwise: list[Tensor]
    shortcut: Tensor | None
    gain: Tensor | None
    gamma: list[Tensor | None]
    beta: list[Tensor | None]
    running_mean: list[Tensor]
    """Those that are there, and so are `running_var` and `counts`."""
    running_var: list[Tensor]
    counts: list[Tensor]
    has_running: list[bool]
    updates: list[bool]
    of_batch: list[bool]
    eps: list[float]
    momenta: list[float]
    dilations: list[int]
    stride: int

    @property
    def norms(self) -> list[OneNorm]:
        """The norms of the stages."""
        means, variances, counts = iter(self.running_mean), iter(self.running_var), iter(self.counts)
        return [
            OneNorm(
                gamma, beta, next(means) if has else None, next(variances) if has else None,
                next(counts) if update else None, *rest,
            )
            for gamma, beta, has, update, *rest in zip(
                self.gamma, self.beta, self.has_running, self.updates, self.of_batch, self.eps, self.momenta,
                strict=True,
            )
        ]  # fmt: skip

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The shape of the output, and of that of every stage."""
        return strided(self.x.shape, self.stride)


class Backward(NamedTuple):
    """Those of a backward pass: what forward had and gave, and which gradients are wanted."""

    grad: Tensor
    x: Tensor
    depthwise: list[Tensor]
    pointwise: list[Tensor]
    shortcut: Tensor | None
    gain: Tensor | None
    gamma: list[Tensor | None]
    beta: list[Tensor | None]
    zs: Tensor
    """(S N, C, H, W), channels_last: the outputs of the stages before their norms, one after the other."""
    tables: Tensor
    """(S, 2, C) float64: mean and rstd that the norms normalised by."""
    ys: Tensor
    """The outputs of the depthwise convolutions in the shape of zs; empty where a backend does not keep them."""
    params: Tensor
    """(rows, C): those of `multi_depthwise` of the stages, one after the other; kept with ys."""
    of_batch: list[bool]
    dilations: list[int]
    stride: int
    need_x: bool
    need_shortcut: bool
    need_gain: bool
    need_depthwise: list[bool]
    need_pointwise: list[bool]
    need_affine: list[bool]
    """Of gamma and beta, as far as they are there."""


class Gradients(NamedTuple):
    """What a backward pass gives: of single tensors an empty one where it is not wanted, of lists those wanted."""

    x: Tensor
    shortcut: Tensor
    gain: Tensor
    depthwise: list[Tensor]
    pointwise: list[Tensor]
    gamma: list[Tensor]
    beta: list[Tensor]


def strided(shape: torch.Size, stride: int) -> tuple[int, ...]:
    """(N, C, ceil(H / stride), ceil(W / stride))."""
    n, channels, height, width = shape
    return n, channels, (height - 1) // stride + 1, (width - 1) // stride + 1


def rows_of_params(depthwise: list[Tensor]) -> list[int]:
    """The rows of the params of every stage: its taps, then scale and shift of the norm before, if there is one."""
    return [w.shape[2] * w.shape[3] + 2 * (s > 0) for s, w in enumerate(depthwise)]


def none_kept(x: Tensor) -> tuple[Tensor, Tensor]:
    """`Backward.ys` and `Backward.params` where they are not kept."""
    return x.new_empty(0), x.new_empty(0, dtype=accumulation_dtype(x.dtype))
