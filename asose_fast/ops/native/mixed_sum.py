"""`mixed_sum` on the compiled kernels (csrc/mixed_sum.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.layout import memory_format
from asose_fast.ops.native import DTYPE_CODES, address, kernels_of, memory

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(xs: list[Tensor], weights: Tensor) -> Tensor:
    """y = sum_k w_k x_k."""
    kernels, execution = kernels_of(xs[0].device)
    format = memory_format(xs[0])
    y = memory.empty(xs[0].shape, xs[0], format) if xs[0].dim() == 4 else torch.empty_like(xs[0], memory_format=format)
    operands, weights = [*xs, y], weights.contiguous()
    sizes, strides = iteration_space(operands, format)
    kernels.mixed_sum_forward(
        DTYPE_CODES[y.dtype], len(xs), sizes, [address(t) for t in operands], strides,
        address(weights), execution,
    )  # fmt: skip
    return y


def backward(
    grad: Tensor, xs: list[Tensor], weights: Tensor, need_x: list[bool], need_weights: bool
) -> tuple[list[Tensor], Tensor]:
    """w_k g for the inputs that need it, in the layout of `grad`, and <g, x_k> (else an empty tensor)."""
    kernels, execution = kernels_of(grad.device)
    format = memory_format(grad)
    grad_xs = [torch.empty_like(grad, memory_format=format) if need else None for need in need_x]
    weights = weights.contiguous()
    # Absent tensors are never dereferenced: grad stands in for them.
    operands = [*(xs or [grad] * len(need_x)), grad, *(grad if t is None else t for t in grad_xs)]
    sizes, strides = iteration_space(operands, format)
    addresses = [address(t) for t in operands[: len(need_x) + 1]] + [address(t) for t in grad_xs]
    partials = grad_weights = None
    if need_weights:
        partials = torch.empty(kernels.mixed_sum_tasks(sizes), len(need_x), dtype=torch.float64, device=grad.device)
        grad_weights = torch.empty_like(weights)
    kernels.mixed_sum_backward(
        DTYPE_CODES[grad.dtype], len(need_x), sizes, addresses, strides,
        address(weights), address(partials), address(grad_weights), execution,
    )  # fmt: skip
    return [t for t in grad_xs if t is not None], weights.new_empty(0) if grad_weights is None else grad_weights


def iteration_space(tensors: list[Tensor], format: torch.memory_format) -> tuple[list[int], list[int]]:
    """Sizes and, tensor after tensor, strides of the loops over tensors of one shape, outermost first.

    The order is that of memory in `format`; neighbouring dimensions that every tensor lays out as one are merged, so
    that tensors which are all dense in `format` make a single loop.
    """
    shape = tensors[0].shape
    if all(t.is_contiguous(memory_format=format) for t in tensors):
        return [tensors[0].numel()], [1] * len(tensors)
    order = (0, 2, 3, 1) if format == torch.channels_last else range(len(shape))
    sizes: list[int] = []
    strides: list[tuple[int, ...]] = []
    for d in order:
        step = tuple(t.stride(d) for t in tensors)
        if shape[d] == 1:
            continue
        if sizes and all(outer == inner * shape[d] for outer, inner in zip(strides[-1], step, strict=True)):
            sizes[-1] *= shape[d]
            strides[-1] = step
        else:
            sizes.append(shape[d])
            strides.append(step)
    return sizes, [dim[i] for i in range(len(tensors)) for dim in strides]
