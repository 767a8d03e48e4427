"""`dense_conv` on the compiled kernels (csrc/dense_conv.h)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.dense import Dense
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.layout import dense
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels, memory

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})

MOST_PAIRS = 1 << 18
"""Pairs of an input and an output channel whose transformed weights, 64 bytes each, a large cache holds."""
PAIRS_A_TILE = 1 << 10
"""So many are transformed faster than the products of a tile of 2x2 are computed."""


def unfit(shape: Sequence[int], dtype: torch.dtype, weight: Sequence[int], conv: Dense) -> str | None:
    """bfloat16 is left to oneDNN where the processor multiplies tiles of it (AMX). 3x3 of stride 1 is left to it below
    16 channels, and where weights are many beside the pixels. Of all else it is left, with AVX2, everything but the 1x7
    and 7x1 that run by minimal filtering and, otherwise, 1x1 kernels and, of others of stride 1 with several rows and
    columns, 64 channels or more that fill its registers."""
    outputs, inputs, *taps = weight
    if has_tiles(dtype):
        return "oneDNN multiplies tiles of bfloat16, which takes half the time or less"
    if taps == [3, 3] and conv.stride == (1, 1) and min(inputs, outputs) >= 16:
        images, _, height, width = shape
        tiles = images * -(-height // 2) * -(-width // 2)
        if inputs * outputs > min(MOST_PAIRS, PAIRS_A_TILE * tiles):
            return "oneDNN is faster where the weights are many beside the pixels"
        return None
    kernels = _native.kernels("cpu")
    if kernels.isa() == "avx2":
        if shape[0] and kernels.dense_conv_filtered(DTYPE_CODES[dtype], shape, weight, *conv):
            return None
        return "oneDNN is as fast with AVX2"
    if max(taps) == 1:
        return "oneDNN is faster at 1x1"
    several = min(taps) > 1 and conv.stride == (1, 1)
    if several and inputs >= 64 and inputs % 16 == outputs % 16 == 0:
        return "oneDNN is faster with 64 channels or more that fill its registers"
    return None


def has_tiles(dtype: torch.dtype) -> bool:
    """Whether the processor multiplies tiles of the dtype (AMX)."""
    return dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()


def forward(x: Tensor, weight: Tensor, conv: Dense) -> Tensor:
    """The convolution."""
    kernels, threads = cpu_kernels()
    y = memory.empty(conv.out_shape(x, weight), x)
    if not y.numel():
        return y
    x, taps = dense(x), weight.to(accumulation_dtype(x.dtype))
    call = (DTYPE_CODES[x.dtype], x.shape, taps.shape, *conv)
    packed, _, scratch = _plan(*call)
    held, room = memory.workspace(packed * taps.itemsize, threads * scratch)
    kernels.dense_conv_forward(
        *call, address(x), address(taps), taps.stride(), room[0], address(y), room[1], threads
    )  # fmt: skip
    del held
    return y


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, conv: Dense, need_x: bool, need_weight: bool
) -> tuple[Tensor, Tensor]:
    """dL/dx and dL/dweight, empty where they are not needed."""
    kernels, threads = cpu_kernels()
    grad_x = memory.empty(x.shape, x) if need_x else None
    if not x.numel():
        none = torch.zeros_like(weight) if need_weight else weight.new_empty(0)
        return x.new_empty(0) if grad_x is None else grad_x, none
    grad, x, taps = dense(grad), dense(x), weight.to(accumulation_dtype(x.dtype))
    grad_taps = torch.empty_like(taps) if need_weight else None
    call = (DTYPE_CODES[x.dtype], x.shape, taps.shape, *conv)
    packed, partials, scratch = _plan(*call)
    sizes = packed * need_x, partials * need_weight, scratch * threads // taps.itemsize
    held, room = memory.workspace(*(size * taps.itemsize for size in sizes))
    kernels.dense_conv_backward(
        *call, address(grad), address(x), address(taps), taps.stride(), room[0], address(grad_x), room[1],
        address(grad_taps), (taps if grad_taps is None else grad_taps).stride(), room[2], threads,
    )  # fmt: skip
    del held
    return (
        x.new_empty(0) if grad_x is None else grad_x,
        weight.new_empty(0) if grad_taps is None else grad_taps.to(weight.dtype),
    )


@functools.lru_cache(maxsize=1024)
def _plan(*call: object) -> tuple[int, int, int]:
    """The values of packed weights and of all partial sums, and the bytes of scratch a thread."""
    packed, slices, partial, scratch = cpu_kernels()[0].dense_conv_plan(*call)
    return packed, slices * partial, scratch
