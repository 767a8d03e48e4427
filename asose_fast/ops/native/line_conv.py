"""`line_conv` on the compiled kernels (csrc/line_conv.h)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.dtypes import accumulation_dtype
from asose_fast.ops.line import Line
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels, memory

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def unfit(shape: Sequence[int], dtype: torch.dtype, line: Line, result: str) -> str | None:
    """Few channels, outputs and input gradients of k x 1, and all where the instruction set is not AVX2, are left to
    oneDNN."""
    if (isa := _native.kernels("cpu").isa()) != "avx2":
        return f"oneDNN is not known to be slower than the {isa} kernels"
    if shape[1] < 16:
        return "oneDNN is as fast with fewer than 16 channels"
    if result != "weight" and line.vertical:
        return "oneDNN is as fast at k x 1, except for the gradients of weights"
    return None


def forward(x: Tensor, weight: Tensor, line: Line) -> Tensor:
    """The convolution."""
    kernels, threads = cpu_kernels()
    x, taps = x.contiguous(memory_format=torch.channels_last), _taps(x, weight)
    y = memory.empty(line.out_shape(x, weight), x)
    if y.numel():
        call = (DTYPE_CODES[x.dtype], x.shape, taps.shape, *line)
        _, packed, scratch = _workspace(x, taps, call, threads)
        kernels.line_conv_forward(
            *call, address(x), address(taps), address(packed), address(y), address(scratch), threads
        )
    return y


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, line: Line, need_x: bool, need_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """dL/dx and dL/dweight where they are needed."""
    kernels, threads = cpu_kernels()
    grad, x = (t.contiguous(memory_format=torch.channels_last) for t in (grad, x))
    taps = _taps(x, weight)
    grad_x = memory.empty(x.shape, x) if need_x else None
    grad_weight = torch.zeros_like(taps) if need_weight else None
    if x.numel():
        call = (DTYPE_CODES[x.dtype], x.shape, taps.shape, *line)
        partial, packed, scratch = _workspace(x, taps, call, threads)
        partials = memory.empty(partial, taps) if need_weight else None
        kernels.line_conv_backward(
            *call, address(grad), address(x), address(taps), address(packed), address(grad_x), address(partials),
            address(grad_weight), address(scratch), threads,
        )  # fmt: skip
    return grad_x, None if grad_weight is None else torch.empty_like(weight).copy_(grad_weight.view(weight.shape))


def _taps(x: Tensor, weight: Tensor) -> Tensor:
    """The weights as the kernels take them, (C_out, C_in, k)."""
    return weight.flatten(2).to(accumulation_dtype(x.dtype)).contiguous()


def _workspace(x: Tensor, taps: Tensor, call: tuple[object, ...], threads: int) -> tuple[Sequence[int], Tensor, Tensor]:
    """The shape of partial sums of the weights' gradient, room for packed weights, and scratch for all threads."""
    kernels, _ = cpu_kernels()
    packed, slices, partial, size = kernels.line_conv_plan(*call)
    scratch = torch.empty(threads * size, dtype=torch.uint8, device=x.device)
    return (slices, 1, 1, partial), taps.new_empty(packed), scratch
