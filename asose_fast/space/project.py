"""The projection of a block on kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.pointwise import pointwise
from asose_fast.ops.tracing import tracing
from asose_fast.space.batch_norm import in_order, normed
from asose_fast.space.exact import classes_are_theirs, computes
from asose_fast.space.fit import Fit
from asose_fast.space.recognise import is_pointwise, is_relu

SMALL = 1 << 15
"""Elements of a tensor that `pointwise` projects as fast as oneDNN; it takes twice as long for a large one."""


def projected(project: nn.Module, x: Tensor) -> Tensor:
    """Returns project(x). A ReLU and a 1x1 convolution at its beginning run as one operator on a small x, where that
    computes the same."""
    parts = _parts(project, x)
    if parts is None:
        return normed(project, x)
    conv, rest = parts
    return in_order(rest, pointwise(x, [conv.weight]), Fit.of(x))


def _parts(project: nn.Module, x: Tensor) -> tuple[nn.Conv2d, list[nn.Module]] | None:
    """Returns the convolution and what follows it; None where the projection is left as it is."""
    if torch.compiler.is_compiling() or tracing() or x.numel() > SMALL:
        return None
    if not classes_are_theirs() or not computes(project, nn.Sequential):
        return None
    relu, conv, *rest = project.children()
    if not is_relu(relu) or not computes(conv, nn.Conv2d) or not is_pointwise(conv):
        return None
    fit = Fit.of(x)
    fits = fit.takes(x) and fit.conv(conv, conv.out_channels, x.shape[1], 1, 1)
    return (conv, rest) if fits and registry.has_kernels("pointwise", x.device.type, x.dtype) else None
