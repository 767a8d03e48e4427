"""Where tensors lie, and what they are like."""

from __future__ import annotations

from operator import attrgetter

from torch import Tensor

from asose_fast import _native
from asose_fast.ops.native import EXCHANGE

_kind = attrgetter("shape", "dtype", "device")


def whereabouts(tensors: list[Tensor]) -> object:
    """Something that is equal as long as the addresses, strides, shapes, dtypes and devices of tensors are."""
    if EXCHANGE and not _native.kernels_missing("cpu"):
        found: bytes | None = _native.kernels("cpu").whereabouts(EXCHANGE, tensors)
        if found is not None:
            return found
    return [*map(Tensor.data_ptr, tensors), *map(Tensor.stride, tensors), *map(_kind, tensors)]
