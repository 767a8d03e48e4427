"""How the operators meet torch.autocast: they choose their dtypes themselves."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of `x`."""
    if x.is_cpu:  # which is asked for every operator of a step, and takes a fifth of the time of a device's type
        return torch.is_autocast_enabled("cpu")
    kind = x.device.type
    known = kind == "cuda" or torch.amp.is_autocast_available(kind)
    return known and torch.is_autocast_enabled(kind)


def computing_dtype(x: Tensor) -> torch.dtype:
    """The dtype to compute in with `x`: that of autocast for float32, where it is on."""
    return torch.get_autocast_dtype(x.device.type) if x.dtype == torch.float32 and autocasts(x) else x.dtype


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """A block in which PyTorch leaves the dtypes of tensors like `x` as they are."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else contextlib.nullcontext()
