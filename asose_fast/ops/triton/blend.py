# mypy: disable-error-code="import-untyped, untyped-decorator"
"""What y = s + g (BN(z) - s) hands back to the shortcut s and the gain g: some programs of a launch that does more."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.triton.tiles import pixel_tile, pixels

_ELEMENTS = 2048
"""Of a tile."""


class Blend(NamedTuple):
    """What is handed back."""

    grad: Tensor
    """dL/dy; dense channels_last, like `of_shortcut`."""
    gain: Tensor
    maps: Tensor
    """(5, C): the last row has the channels' parts of the gain's gradient (`norm_lerp.maps_of`)."""
    of_gain: Tensor | None
    of_shortcut: Tensor
    added: bool
    """Whether `of_shortcut` holds a gradient already, to which this one is added."""

    def tasks(self, block_c: int) -> int:
        """The programs that a group of so many channels needs."""
        return -(-self.of_shortcut.numel() // self.of_shortcut.shape[1] // self._pixels(block_c))

    def arguments(self, block_c: int) -> tuple[Any, ...]:
        """The arguments of `blend_bwd` from the first to `channels`, then the constants ADDED and BLOCK_P."""
        n, _, h, w = self.of_shortcut.shape
        tensors = self.grad, self.gain, self.maps, self.of_gain, self.of_shortcut
        return *tensors, n, h, w, self.added, self._pixels(block_c)

    def _pixels(self, block_c: int) -> int:
        pixel_tile(self.of_shortcut.shape, _ELEMENTS)  # refuses more pixels than 32 bits count
        return max(_ELEMENTS // block_c, 1)


@triton.jit
def store_gain(
    of_gain: tl.tensor, maps: tl.tensor, channels: tl.int64, ACC: tl.constexpr, BLOCK_C: tl.constexpr
) -> None:
    """The gradient of the gain, from the channels' parts of it."""
    total = tl.zeros([BLOCK_C], tl.float64)
    for start in range(0, channels, BLOCK_C):
        some = start + tl.arange(0, BLOCK_C)
        total += tl.load(maps + 4 * channels + some, mask=some < channels, other=0.0).to(tl.float64)
    # By way of ACC, because the interpreter makes no bfloat16 of float64.
    tl.store(of_gain, tl.sum(total, axis=0).to(ACC).to(of_gain.dtype.element_ty))


@triton.jit
def blend_bwd(
    task: tl.tensor,
    channel: tl.tensor,
    grad: tl.tensor,
    gain: tl.tensor,
    maps: tl.tensor,
    of_gain: tl.tensor,  # or None
    of_shortcut: tl.tensor,
    images: tl.int32,
    height: tl.int32,
    width: tl.int32,
    channels: tl.int64,
    ADDED: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """The tile of a task; the first one has the gain besides."""
    pixel, _, _, _, exists = pixels(images, height, width, task, BLOCK_P)
    at = (pixel * channels)[:, None] + channel[None, :]
    inside = exists[:, None] & (channel < channels)[None, :]
    g = tl.load(gain).to(ACC)
    value = tl.where(g != 1, (1 - g) * tl.load(grad + at, mask=inside, other=0.0).to(ACC), 0.0)
    if ADDED:
        value += tl.load(of_shortcut + at, mask=inside, other=0.0).to(ACC)
    tl.store(of_shortcut + at, value.to(of_shortcut.dtype.element_ty), mask=inside)
    if of_gain is not None:  # noqa: SIM102 (known when compiling, unlike the next condition)
        if (task == 0) & (tl.program_id(1) == 0):
            store_gain(of_gain, maps, channels, ACC, BLOCK_C)
