"""A batch norm, and the pooling after it, on kernels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.norm_pool import norm_pool
from asose_fast.space.exact import computes
from asose_fast.space.fit import Fit
from asose_fast.space.parts.part import Found, Part, in_turn
from asose_fast.space.recognise import is_halving

LARGE = {1: 1 << 18, 2: 1 << 17}
"""Elements of a tensor from which on the kernels are faster, without pooling and with it."""


class Norm:
    """y = BN(x), and the 2x2 maxima of that where a pooling follows: on `norm_pool` where the tensor is large and for
    it, else by the modules."""

    def __init__(self, norm: nn.BatchNorm2d, modules: Sequence[Part]) -> None:
        self.norm, self.modules = norm, modules

    def __call__(self, x: Tensor) -> Tensor:
        fit, pool = Fit.of(x), len(self.modules)
        if (
            x.numel() >= LARGE[pool]
            and fit.takes(x)
            and fit.norm(self.norm, x.shape[1])
            and registry.has_kernels("norm_pool", x.device.type, x.dtype)
        ):
            return norm_pool(x, self.norm, pool, checked=True)
        return in_turn(self.modules, x)


def find_norm(modules: Sequence[Part]) -> Found | None:
    """A batch norm, with the 2x2 max pooling after it where one is."""
    if not computes(norm := modules[0], nn.BatchNorm2d):
        return None
    count = 2 if len(modules) > 1 and is_halving(modules[1]) else 1
    return Norm(norm, modules[:count]), count
