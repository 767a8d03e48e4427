"""`norm_tables` on the compiled kernels (csrc/norm_tables.h)."""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels
from asose_fast.ops.native.batch_statistics import DTYPES
from asose_fast.ops.norm_tables import Norms
from asose_fast.ops.reference import norm_tables as reference

__all__ = ["DTYPES", "forward"]


def forward(call: Norms) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(var + eps) that each norm normalises by, (K, C) float64."""
    if not _known(call):
        return reference.forward(call)
    call = call.measured()
    kernels, threads = cpu_kernels()
    norms, channels = len(call.of_batch), call.channels
    means, variances = ([t.contiguous() for t in tables] for tables in (call.means, call.variances))
    of_means, of_variances = _rows(means), _rows(variances)
    integers: list[int] = []
    numbers: list[float] = []
    rows = zip(call.running(), call.of_batch, call.rows, call.eps, call.momenta, strict=True)
    for (mean, var, batches), of_batch, row, eps, momentum in rows:
        dtype = 0 if mean is None else DTYPE_CODES[mean.dtype]
        of_row = (of_means[row], of_variances[row]) if of_batch else (0, 0)
        integers += (of_batch, dtype, address(mean), address(var), address(batches), *of_row)
        numbers += (eps, momentum)
    out, rstd = (torch.empty(norms, channels, dtype=torch.float64) for _ in range(2))
    kernels.norm_tables(
        DTYPE_CODES[call.dtype], norms, channels, integers, numbers, call.values / max(1, call.values - 1),
        address(out), address(rstd), threads,
    )  # fmt: skip
    return out, rstd


def _rows(tables: list[Tensor]) -> list[int]:
    """The addresses of all rows."""
    return [
        base + row * table.shape[1] * table.element_size()
        for table in tables
        for base in (address(table),)
        for row in range(len(table))
    ]


def _known(call: Norms) -> bool:
    """Whether the kernel takes these running statistics."""
    if not all(map(known, call.running_mean, call.running_var)):
        return False
    return all([count.dtype is torch.int64 and count.is_cpu for count in call.counts])


def known(mean: Tensor, var: Tensor) -> bool:
    """Whether kernels take these running statistics, to which anything may have been done before."""
    if mean.dtype is not var.dtype or mean.dtype not in DTYPE_CODES or mean.dtype is torch.float16:
        return False
    return mean.is_cpu and var.is_cpu and mean.is_contiguous() and var.is_contiguous()
