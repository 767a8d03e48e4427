"""`sgd` on the compiled kernels (csrc/sgd.h)."""

from __future__ import annotations

from itertools import compress
from operator import attrgetter, not_
from typing import Any

import torch
from torch import Tensor

from asose_fast.ops.dtypes import WIDE
from asose_fast.ops.layout import orders
from asose_fast.ops.native import DTYPE_CODES, EXCHANGE, address, cpu_kernels
from asose_fast.ops.reference import sgd as reference

DTYPES = WIDE if EXCHANGE else frozenset()
"""Without that, tensors cannot be looked at."""
_dtype = attrgetter("dtype")


def whole(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    norm: Tensor | None,
    *numbers: Any,
) -> bool:
    """Takes the step where the kernel can take all of it, and says whether it did. It looks at the tensors itself: at
    their shapes, dtypes and orders."""
    kernels, threads = cpu_kernels()
    code = 0 if norm is None else DTYPE_CODES[norm.dtype]
    taken: bool = kernels.sgd(EXCHANGE, parameters, gradients, momenta, code, address(norm), *numbers, threads)
    if taken:
        torch.autograd.graph.increment_version([*parameters, *momenta])
    return taken


def forward(
    parameters: list[Tensor],
    gradients: list[Tensor],
    momenta: list[Tensor],
    norm: Tensor | None,
    *numbers: Any,
) -> None:
    """The step; plain PyTorch takes it where the tensors of a parameter lie in memory in different orders."""
    if whole(parameters, gradients, momenta, norm, *numbers):
        return
    fit = [
        dtype in DTYPES and a is b is c is not None
        for dtype, a, b, c in zip(
            map(_dtype, parameters), *map(orders, (parameters, gradients, momenta or gradients)), strict=True
        )
    ]
    others = [list(compress(ts, map(not_, fit))) for ts in (parameters, gradients, momenta)]
    reference.forward(others[0], others[1], others[2], norm, *numbers)
    parameters, gradients, momenta = (list(compress(ts, fit)) for ts in (parameters, gradients, momenta))
    if parameters and not whole(parameters, gradients, momenta, norm, *numbers):
        raise ValueError("sgd: a tensor has no memory that can be looked at")
