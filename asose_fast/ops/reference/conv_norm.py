"""`conv_norm` as the operators that it stands for: the convolution, then what follows it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.conv_norm_call import Backward, Forward
from asose_fast.ops.dense import Dense
from asose_fast.ops.dtypes import FLOATS
from asose_fast.ops.reference import dense_conv, norm_lerp, norm_pool

DTYPES = FLOATS


def reference(
    x: Tensor,
    weight: Tensor,
    norm: Callable[[Tensor], Tensor],
    conv: Dense,
    pool: int,
    shortcut: Tensor | None,
    gain: Tensor | None,
) -> Tensor:
    """What `conv_norm` computes, as PyTorch would."""
    z = dense_conv.reference(x, weight, conv)
    if shortcut is None or gain is None:
        return norm_pool.reference(z, norm, pool)
    return norm_lerp.reference(z, norm, shortcut, gain)


def forward(call: Forward) -> tuple[Tensor, Tensor, Tensor]:
    """y, the output of the convolution, and mean and rstd that the norm normalises by, (2, C) float64; as a backend,
    each operator of which is of the backend that serves it best."""
    x, weight, conv, norm = call.x, call.weight, call.conv, call.norm
    z = registry.select("dense_conv", x, weight.shape, conv).forward(x, weight, conv)
    if call.gain is None:
        y, tables = registry.select("norm_pool", z).forward(z, norm, call.pool)
    else:
        y, tables = registry.select("norm_lerp", z).forward(z, call.shortcut, call.gain, norm)
    return y, z, tables


def backward(call: Backward) -> tuple[Tensor, ...]:
    """The gradients of x, weight, shortcut, gain, gamma and beta, empty where they are not needed; likewise."""
    none, need_z = call.grad.new_empty(0), call.need_x or call.need_weight
    statistics = call.gamma, call.beta, call.tables, call.of_batch
    if call.gain is None:
        of_z, *affine = registry.select("norm_pool", call.z).backward(
            call.grad, call.z, *statistics, call.pool, need_z, call.need_affine
        )
        blended = [none, none.clone()]
    else:
        of_z, *blended_and_affine = registry.select("norm_lerp", call.z).backward(
            call.grad, call.z, call.shortcut, call.gain, *statistics,
            need_z, call.need_shortcut, call.need_gain, call.need_affine,
        )  # fmt: skip
        blended, affine = blended_and_affine[:2], blended_and_affine[2:]
    if not need_z:
        return none.clone(), none.clone(), *blended, *affine
    of_conv = registry.select("dense_conv", call.x, call.weight.shape, call.conv).backward(
        of_z, call.x, call.weight, call.conv, call.need_x, call.need_weight
    )
    return *of_conv, *blended, *affine
