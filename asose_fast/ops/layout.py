"""The memory formats of (N, C, H, W) tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast.ops.autograd import batched, transformed


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last where a 4-D `x` is that and not plainly contiguous too, else contiguous."""
    if x.dim() == 4 and not x.is_contiguous() and not batched(x) and x.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return torch.contiguous_format


def channels_last(x: Tensor) -> Tensor:
    """x in channels_last, or as it is where a call is transformed: vmap knows no memory formats."""
    return x if transformed() or batched(x) else x.contiguous(memory_format=torch.channels_last)


def empty_channels_last(like: Tensor, shape: Sequence[int]) -> Tensor:
    """An uninitialised channels_last tensor in the dtype and on the device of `like`."""
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def dense(tensor: Tensor, format: torch.memory_format = torch.channels_last) -> Tensor:
    """The tensor, or a copy of it that is dense in `format`."""
    return tensor.contiguous(memory_format=format)


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """The tensor, or a copy of it that has the dtype and the strides of another of its shape."""
    if tensor.dtype == other.dtype and tensor.stride() == other.stride():
        return tensor
    return torch.empty_like(other).copy_(tensor)


def all_dense(tensors: Sequence[Tensor], format: torch.memory_format = torch.channels_last) -> list[Tensor]:
    """The tensors, or copies of them that are dense in `format`."""
    return [tensor.contiguous(memory_format=format) for tensor in tensors]


def orders(tensors: Sequence[Tensor]) -> list[torch.memory_format | None]:
    """In which order the elements of each tensor fill a stretch of memory: contiguous, else channels_last; None: they
    do not."""
    found = [torch.contiguous_format if here else None for here in map(Tensor.is_contiguous, tensors)]
    if None in found:
        for i, t in enumerate(tensors):
            if found[i] is None and t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last):
                found[i] = torch.channels_last
    return found
