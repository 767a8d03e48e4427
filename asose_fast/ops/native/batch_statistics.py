"""`batch_statistics` on the compiled kernels (csrc/batch_statistics.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.layout import memory_format
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels
from asose_fast.ops.native.channels import channel_space

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16})


def forward(zs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, (K, C) float64."""
    kernels, threads = cpu_kernels()
    format = memory_format(zs[0])
    dense = [z.contiguous(memory_format=format) for z in zs]
    space = channel_space(dense[0], format)
    channels = zs[0].size(1)
    partials = torch.empty(kernels.lane_groups(*space), len(zs), 2, channels, dtype=torch.float64)
    mean = torch.empty(len(zs), channels, dtype=torch.float64)
    var = torch.empty_like(mean)
    kernels.batch_statistics(
        DTYPE_CODES[zs[0].dtype], len(zs), *space, [address(z) for z in dense],
        address(partials), address(mean), address(var), threads,
    )  # fmt: skip
    return mean, var
