"""`stage_weights` on the compiled kernels (csrc/stage_weights.h)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from asose_fast.ops.native import DTYPE_CODES, address, cpu_kernels
from asose_fast.ops.native.channels import wide
from asose_fast.ops.reference import stage_weights as reference

DTYPES = frozenset({torch.float32, torch.float64, torch.bfloat16, torch.float16})


def forward(
    depthwise: list[Tensor],
    pointwise: list[Tensor],
    mean: Tensor | None,
    rstd: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """params and pointwise of `separable`."""
    kernels, threads = cpu_kernels()
    branches, channels = len(depthwise), depthwise[0].size(0)
    norms = 0 if mean is None else branches
    params = torch.empty(sum([w.size(2) ** 2 for w in depthwise]) + 2 * norms, channels, dtype=dtype)
    matrices = torch.empty(branches, channels, channels, dtype=dtype)
    depthwise, pointwise = ([w.to(_known(w.dtype)) for w in weights] for weights in (depthwise, pointwise))
    tables = [wide(t) for t in (mean, rstd, gamma, beta)]
    kernels.stage_weights_forward(
        DTYPE_CODES[dtype], branches, channels, _strided(depthwise, depthwise), _strided(pointwise, pointwise), norms,
        [address(t) for t in tables], address(params), address(matrices), threads,
    )  # fmt: skip
    return params, matrices


def backward(
    grad_params: Tensor,
    grad_matrices: Tensor,
    depthwise: list[Tensor],
    pointwise: list[Tensor],
    mean: Tensor | None,
    rstd: Tensor | None,
    gamma: Tensor | None,
    alive: Tensor | None,
    used: list[bool],
    need_depthwise: list[bool],
    need_pointwise: list[bool],
    has_sums: bool,
    pixels: int,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor, Tensor]:
    """The gradients (`asose_fast.ops.reference.stage_weights.backward`)."""
    if alive is not None:  # the host, which sees the weights on a CPU, leaves dead branches out itself
        return reference.backward(
            grad_params, grad_matrices, depthwise, pointwise, mean, rstd, gamma, alive, used, need_depthwise,
            need_pointwise, has_sums, pixels,
        )  # fmt: skip
    kernels, threads = cpu_kernels()
    branches, channels = len(depthwise), depthwise[0].size(0)
    norms = 0 if mean is None else branches
    grads = [
        [torch.empty_like(w, dtype=_known(w.dtype)) if need else None for w, need in zip(weights, needs, strict=True)]
        for weights, needs in ((depthwise, need_depthwise), (pointwise, need_pointwise))
    ]
    s0, s1 = (torch.empty(norms, channels, dtype=torch.float64) for _ in range(2))
    out = torch.empty(norms, 4, channels, dtype=grad_params.dtype)
    tables = [wide(mean), wide(rstd), wide(gamma), None]
    grad_params, grad_matrices = grad_params.contiguous(), grad_matrices.contiguous()
    kernels.stage_weights_backward(
        DTYPE_CODES[grad_params.dtype], branches, channels, address(grad_params), address(grad_matrices),
        _strided(depthwise, grads[0]), _strided(pointwise, grads[1]), norms, [address(t) for t in tables],
        used, has_sums, pixels, address(s0), address(s1), address(out), threads,
    )  # fmt: skip
    found = [
        [g.to(w.dtype) for w, g in zip(weights, of_weights, strict=True) if g is not None]
        for weights, of_weights in zip((depthwise, pointwise), grads, strict=True)
    ]
    return found[0], found[1], s0, s1, out


def _known(dtype: torch.dtype) -> torch.dtype:
    """The dtype, or for one that the kernels do not know a wider one that they do."""
    return dtype if dtype in DTYPE_CODES and dtype is not torch.float16 else torch.float32


def _strided(weights: Sequence[Tensor], tensors: Sequence[Tensor | None]) -> list[int]:
    """Of the tensors of these weights: dtype, address, columns, side, and the strides of channels and columns."""
    found: list[int] = []
    for w, t in zip(weights, tensors, strict=True):
        channels, inputs, _, side = w.shape
        over, across, *down = (0, 0, 0, 0) if t is None else t.stride()
        kind = 0 if t is None else DTYPE_CODES[t.dtype]
        if side == 1 and inputs == channels > 1:
            found += (kind, address(t), inputs, 1, over, across, 0)
        else:
            found += (kind, address(t), side * side, side, over, *down)
    return found
