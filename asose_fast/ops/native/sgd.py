"""`sgd` on the compiled kernels (csrc/sgd.h)."""

from __future__ import annotations

from itertools import compress
from operator import attrgetter, not_
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops.dtypes import WIDE
from asose_fast.ops.layout import orders
from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels
from asose_fast.ops.reference import sgd as reference

DTYPES = WIDE
_dtype = attrgetter("dtype")


def forward(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    norm: Tensor | None,
    *numbers: Any,
) -> None:
    """The step; plain PyTorch takes it where the tensors of a parameter lie in memory in different orders."""
    fit = [
        dtype in DTYPES and a is b is c is not None
        for dtype, a, b, c in zip(
            map(_dtype, parameters), *map(orders, (parameters, gradients, momenta or gradients)), strict=True
        )
    ]
    if False in fit:
        others = [list(compress(ts, map(not_, fit))) for ts in (parameters, gradients, momenta)]
        reference.forward(others[0], others[1], others[2], norm, *numbers)
        parameters, gradients, momenta = (list(compress(ts, fit)) for ts in (parameters, gradients, momenta))
    kernels, threads = cpu_kernels()
    kernels.sgd(
        [DTYPE_CODES[p.dtype] for p in parameters],
        list(map(Tensor.numel, parameters)),
        *([address(t) for t in tensors] for tensors in (parameters, gradients, momenta)),
        0 if norm is None else DTYPE_CODES[norm.dtype], address(norm), *numbers, threads,
    )  # fmt: skip
    torch.autograd.graph.increment_version([*parameters, *momenta])
