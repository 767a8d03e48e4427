"""A batch norm, and the pooling after it, on kernels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from asose_fast.ops import registry
from asose_fast.ops.norm_lerp import norm_lerp
from asose_fast.ops.norm_pool import norm_pool
from asose_fast.ops.torch_faults import usual_gradient
from asose_fast.space.exact import computes
from asose_fast.space.fit import Fit
from asose_fast.space.outputs import blend, require_shortcut
from asose_fast.space.parts.part import Part, in_turn
from asose_fast.space.recognise import is_halving

LARGE = {1: 1 << 18, 2: 1 << 17}
"""Elements of a tensor from which on the kernels are faster, without pooling and with it."""


class Norm:
    """y = BN(x), and the 2x2 maxima of that where a pooling follows: on `norm_pool` where the tensor is large and for
    it, else by the modules."""

    def __init__(self, norm: nn.BatchNorm2d, modules: Sequence[Part]) -> None:
        self.norm, self.modules = norm, modules

    def __call__(self, x: Tensor) -> Tensor:
        fit, pool = Fit.of(x), self.pool
        if (
            x.numel() >= LARGE[pool]
            and fit.takes(x)
            and fit.norm(self.norm, x.shape[1])
            and registry.has_kernels("norm_pool", x.device.type, x.dtype)
        ):
            return norm_pool(x, self.norm, pool, checked=True)
        return in_turn(self.modules, x)

    def blended(self, z: Tensor, gain: Tensor, shortcut: Tensor) -> Tensor:
        """Returns s + g * (BN(z) - s), of a norm without pooling: on `norm_lerp` where the tensors are for it, else by
        the module. Raises ValueError where the shortcut is not of the shape of z."""
        fit = Fit.of(z)
        if (
            (fit.takes(z) and fit.norm(self.norm, z.shape[1]))
            and (fit.takes(shortcut) and shortcut.dtype == z.dtype)
            and registry.has_kernels("norm_lerp", z.device.type, z.dtype)
        ):
            require_shortcut(shortcut, z.shape)
            return norm_lerp(z, self.norm, shortcut, gain)
        y: Tensor = self.norm(z)
        usual_gradient(y)
        return blend(y, gain, shortcut)

    @property
    def pool(self) -> int:
        """2 where a pooling follows, else 1."""
        return len(self.modules)


def find_norm(modules: Sequence[Part]) -> tuple[Norm, int] | None:
    """A batch norm, with the 2x2 max pooling after it where one is."""
    if not computes(norm := modules[0], nn.BatchNorm2d):
        return None
    count = 2 if len(modules) > 1 and is_halving(modules[1]) else 1
    return Norm(norm, modules[:count]), count
