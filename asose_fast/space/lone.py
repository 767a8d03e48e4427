"""A lone candidate is blended with the shortcut, in one operator with its last norm where it ends in one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.norm_lerp import norm_lerp
from asose_fast.ops.torch_faults import usual_gradient
from asose_fast.space.fit import Fit
from asose_fast.space.outputs import require_shortcut
from asose_fast.space.stacked import Branches


def blended(op: nn.Module, x: Tensor, gain: Tensor, shortcut: Tensor, branches: Branches | None) -> Tensor:
    """Returns s + g * (op(x) - s); without `branches`, which are those of the candidate, as PyTorch computes it.

    Raises ValueError where the shortcut is not of the shape of op(x).
    """
    kernels = branches is not None and registry.has_kernels("norm_lerp", x.device.type, x.dtype)
    found = branches.up_to_norm(x) if branches is not None and kernels else None
    y = x
    for part in [op] if found is None else found[0]:
        y = part(y)
    if found is not None:
        norm, fit = found[1], Fit.of(x)
        if fit.takes(y) and fit.norm(norm, y.shape[1]) and fit.takes(shortcut) and shortcut.dtype == y.dtype:
            require_shortcut(shortcut, y.shape)
            return norm_lerp(y, norm, shortcut, gain)
        y = norm(y)
    if y is not x:
        usual_gradient(y)
    require_shortcut(shortcut, y.shape)
    return torch.lerp(shortcut, y.to(shortcut.dtype), gain.to(shortcut.dtype))
