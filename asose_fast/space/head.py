"""The head of a network on kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.norm_relu_mean import norm_relu_mean
from asose_fast.ops.tracing import tracing
from asose_fast.space.exact import classes_are_theirs, computes
from asose_fast.space.fit import Fit
from asose_fast.space.global_average import GlobalAverage
from asose_fast.space.recognise import is_flattening, is_relu

LARGE = 1 << 15
"""Elements of a tensor from which on one operator is faster. Without a gradient PyTorch is as fast for any tensor."""


def scored(head: nn.Module, x: Tensor) -> Tensor:
    """Returns head(x). Where gradients of a large x are wanted, all that comes before the classifier runs as one
    operator, unless that would compute something else."""
    parts = _parts(head, x)
    if parts is None:
        y: Tensor = head(x)
        return y
    norm, rest = parts
    y = norm_relu_mean(x, norm)
    for part in rest:
        y = part(y)
    return y


def _parts(head: nn.Module, x: Tensor) -> tuple[nn.BatchNorm2d | None, list[nn.Module]] | None:
    """Returns the norm, if there is one, and what follows the flattening; None where the head is left as it is."""
    if torch.compiler.is_compiling() or tracing() or not (x.requires_grad and torch.is_grad_enabled()):
        return None
    if x.numel() < LARGE or not classes_are_theirs() or not computes(head, nn.Sequential):
        return None
    parts, fit = list(head.children()), Fit.of(x)
    norm = parts[0] if parts and computes(parts[0], nn.BatchNorm2d) else None
    rest = parts[norm is not None :]
    if len(rest) < 3 or not is_relu(rest[0]) or not computes(rest[1], GlobalAverage) or not is_flattening(rest[2]):
        return None
    fits = fit.takes(x) and (norm is None or fit.norm(norm, x.shape[1]))
    return (norm, rest[3:]) if fits and registry.has_kernels("norm_relu_mean", x.device.type, x.dtype) else None
