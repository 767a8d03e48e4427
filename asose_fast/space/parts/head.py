"""What comes before the classifier of a network, on kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.norm_relu_mean import norm_relu_mean
from asose_fast.space.exact import computes
from asose_fast.space.fit import Fit
from asose_fast.space.global_average import GlobalAverage
from asose_fast.space.parts.part import Found, Part, in_turn
from asose_fast.space.recognise import is_flattening, is_relu

LARGE = 1 << 15
"""Elements of a tensor from which on one operator is faster. Without a gradient PyTorch is as fast for any tensor."""


class Head:
    """y = mean(relu(BN(x))), or without the norm, (N, C): on `norm_relu_mean` where gradients of a large x are wanted
    and it is for that, else by the modules."""

    def __init__(self, norm: nn.BatchNorm2d | None, modules: Sequence[Part]) -> None:
        self.norm, self.modules = norm, modules

    def __call__(self, x: Tensor) -> Tensor:
        fit = Fit.of(x)
        if (
            (x.requires_grad and torch.is_grad_enabled() and x.numel() >= LARGE)
            and (fit.takes(x) and (self.norm is None or fit.norm(self.norm, x.shape[1])))
            and registry.has_kernels("norm_relu_mean", x.device.type, x.dtype)
        ):
            return norm_relu_mean(x, self.norm)
        return in_turn(self.modules, x)


def find_head(modules: Sequence[Part]) -> Found | None:
    """A ReLU, a global average and a flattening, with the norm before them where one is."""
    norm = modules[0] if computes(modules[0], nn.BatchNorm2d) else None
    count = 3 + (norm is not None)
    relu, average, flatten = (*modules[count - 3 : count], None, None, None)[:3]
    if not (is_relu(relu) and computes(average, GlobalAverage) and is_flattening(flatten)):
        return None
    return Head(norm, modules[:count]), count
