"""A lone candidate is blended with the shortcut, in one operator with its last norm where it ends in one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.norm_lerp import norm_lerp
from asose_fast.ops.torch_faults import usual_gradient
from asose_fast.space.exact import classes_are_theirs, computes
from asose_fast.space.fit import Fit
from asose_fast.space.outputs import require_shortcut
from asose_fast.space.parts import Part, on_kernels
from asose_fast.space.recognise import is_reduction
from asose_fast.space.stacked import Halves


def blended(op: nn.Module, x: Tensor, gain: Tensor, shortcut: Tensor, fused: bool) -> Tensor:
    """Returns s + g * (op(x) - s); where not `fused`, as PyTorch computes it.

    Raises ValueError where the shortcut is not of the shape of op(x).
    """
    body, norm = _up_to_norm(op, x) if fused and _may_fuse(x) else ([op], None)
    y = x
    for part in body:
        y = part(y)
    if norm is not None:
        fit = Fit.of(x)
        if fit.takes(y) and fit.norm(norm, y.shape[1]) and fit.takes(shortcut) and shortcut.dtype == y.dtype:
            require_shortcut(shortcut, y.shape)
            return norm_lerp(y, norm, shortcut, gain)
        y = norm(y)
    if y is not x:
        usual_gradient(y)
    require_shortcut(shortcut, y.shape)
    return torch.lerp(shortcut, y.to(shortcut.dtype), gain.to(shortcut.dtype))


def _may_fuse(x: Tensor) -> bool:
    if x.dim() != 4 or torch.compiler.is_compiling() or not classes_are_theirs():
        return False
    return registry.has_kernels("norm_lerp", x.device.type, x.dtype)


def _up_to_norm(op: nn.Module, x: Tensor) -> tuple[Sequence[Part], nn.BatchNorm2d | None]:
    """Returns what comes before the last norm of a candidate, and the norm; None where it ends in something else."""
    parts = list(op._modules.values()) if computes(op, nn.Sequential) else []
    if parts and computes(norm := parts[-1], nn.BatchNorm2d):
        return on_kernels(parts[:-1]), norm
    if is_reduction(op):
        halves = Halves(op)
        return [halves.on_kernels if halves.fits(x, Fit.of(x)) else halves], op.norm
    return [op], None
