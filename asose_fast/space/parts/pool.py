"""A 3x3 pooling without the other one beside it, on kernels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.pool_pair import pool_3x3
from asose_fast.space.fit import Fit
from asose_fast.space.parts.part import Found, Part
from asose_fast.space.recognise import is_average_pool, is_max_pool

AVERAGES = 1 << 16
"""Elements of a tensor from which on averages of stride 1 are faster on kernels."""
MAXIMA = 1 << 18
"""The same of maxima of stride 1."""
OTHERS = 1 << 20
"""The same of poolings of stride 2."""
MANY = {1: 192, 2: 64}
"""So many channels are too many for maxima, or for poolings of stride 2."""


class Pooling:
    """y = pool(x), on `pool_3x3` where the tensor is for it and that is faster, else by the module.

    On a GPU, where nothing has been measured, the module runs.
    """

    def __init__(self, module: Part, maximum: bool, stride: int) -> None:
        self.module, self.maximum, self.stride = module, maximum, stride

    def __call__(self, x: Tensor) -> Tensor:
        if Fit.of(x).takes(x) and x.is_cpu and self._pays(x) and registry.has_kernels("pool_pair", "cpu", x.dtype):
            return pool_3x3(x, maximum=self.maximum, stride=self.stride)
        return self.module(x)

    def _pays(self, x: Tensor) -> bool:
        """Says whether kernels were no slower wherever that was measured, forward and backward."""
        if self.stride == 1 and not self.maximum:
            return x.numel() >= AVERAGES
        return x.numel() >= (MAXIMA if self.stride == 1 else OTHERS) and x.shape[1] < MANY[self.stride]


def find_pooling(modules: Sequence[Part]) -> Found | None:
    """A pooling of stride 1 or 2."""
    for stride in (1, 2):
        for maximum, recognised in enumerate((is_average_pool, is_max_pool)):
            if recognised(modules[0], stride):
                return Pooling(modules[0], bool(maximum), stride), 1
    return None
