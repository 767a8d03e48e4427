"""Whether modules take a tensor. Kernels, which look at nothing, must be given no other."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops.autocast import autocasts
from asose_fast.ops.library import PLAIN
from asose_fast.ops.reference.mixed_sum import DTYPES

LOW = frozenset({torch.float16, torch.bfloat16})


class Fit(NamedTuple):
    """What parameters must be like for convolutions and norms of tensors like x, in PyTorch as it is."""

    device: torch.device
    dtypes: frozenset[torch.dtype]
    """The dtypes that x and what convolutions make of it may have."""
    convs: frozenset[torch.dtype]
    norms: frozenset[torch.dtype]

    @staticmethod
    def of(x: Tensor) -> Fit:
        """What parameters must be like for x, wherever it can be given to kernels."""
        target = torch.get_autocast_dtype(x.device.type) if autocasts(x) else None
        return _fit(x.device, x.dtype, target)

    def takes(self, x: Tensor) -> bool:
        """Whether x is a plain (N, C, H, W) itself, not empty, of those dtypes, on the device."""
        return (
            type(x) in PLAIN and x.dim() == 4 and x.numel() > 0 and x.dtype in self.dtypes and x.device == self.device
        )

    def conv(self, conv: nn.Conv2d, *shape: int) -> bool:
        """Whether its weight has that shape, and is for the tensors."""
        weight = conv._parameters.get("weight")
        return (
            weight is not None
            and type(weight) in PLAIN
            and weight.shape == shape
            and weight.dtype in self.convs
            and weight.device == self.device
        )

    def norm(self, norm: nn.BatchNorm2d, channels: int) -> bool:
        """Whether it is for tensors of that many channels, and keeps all of its running statistics or none."""
        get = norm._buffers.get
        mean, var, count = get("running_mean"), get("running_var"), get("num_batches_tracked")
        if (mean is None) != (var is None):
            return False
        if norm.training and norm.track_running_stats and (mean is None) != (count is None):
            return False
        tensors = [tensor for tensor in (mean, var, *norm._parameters.values()) if tensor is not None]
        if tensors and tensors[0].dtype not in self.norms:
            return False
        for tensor in tensors:
            if (
                type(tensor) not in PLAIN
                or tensor.shape != (channels,)
                or tensor.dtype != tensors[0].dtype
                or tensor.device != self.device
            ):
                return False
        return count is None or (type(count) in PLAIN and count.device == self.device)


@functools.cache
def _fit(device: torch.device, dtype: torch.dtype, autocast: torch.dtype | None) -> Fit:
    """Its three sets are all empty where PyTorch would compute in another dtype than the kernels."""
    return Fit(device, *_dtypes(dtype, autocast))


def _dtypes(dtype: torch.dtype, autocast: torch.dtype | None) -> tuple[frozenset[torch.dtype], ...]:
    if dtype not in DTYPES or (autocast and dtype in LOW and dtype != autocast):
        return frozenset(), frozenset(), frozenset()
    own = frozenset({dtype})
    norms = own | {torch.float32} if dtype in LOW else own
    if autocast is None or dtype == torch.float64:
        return own, own, norms
    return own | {autocast}, LOW | {torch.float32}, norms
