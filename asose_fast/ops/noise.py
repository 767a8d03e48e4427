"""Gumbel noise from Philox4x32-10: one counter an element, the same number on every backend.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. csrc/philox.h and ops/triton/philox.py
compute the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from asose_fast.ops.checks import check_integer, check_tensor

_MASK = 0xFFFFFFFF


def _multiply(a: Tensor, constant: int) -> tuple[Tensor, Tensor]:
    product = a * constant  # wraps modulo 2^64, which keeps both halves right
    return (product >> 32) & _MASK, product & _MASK


def _philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(c0, 0xD2511F53)
        high1, low1 = _multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def gumbel_noise(rng: Tensor, layers: int, ops: int) -> Tensor:
    """Standard Gumbel noise, a pure function of `rng` and the element's position.

    G = -log(-log(u)), where u has 52 random bits and lies strictly inside (0, 1): finite without clipping.

    Args:
        rng: int64 (2,): seed and offset. One offset is one draw for all layers; add 1 for the next.
        layers: number of rows.
        ops: number of columns. The noise of an element does not depend on either number.

    Returns:
        float64 (layers, ops) on the device of `rng`.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or range.
    """
    check_tensor("gumbel_noise: rng", rng)
    if rng.dtype != torch.int64 or rng.shape != (2,):
        raise ValueError(f"gumbel_noise: rng must be int64 (2,), got {rng.dtype} {tuple(rng.shape)}")
    for name, value in (("layers", layers), ("ops", ops)):
        check_integer(f"gumbel_noise: {name}", value)
        if not 0 <= value < 2**32:  # a word of the counter
            raise ValueError(f"gumbel_noise: {name} must be at least 0 and below 2^32, got {value}")
    return drawn_noise(rng, layers, ops)


def drawn_noise(rng: Tensor, layers: int, ops: int) -> Tensor:
    """What `gumbel_noise` gives for valid arguments."""
    seed, offset = rng.unbind()
    op = torch.arange(ops, device=rng.device).expand(layers, ops)
    layer = torch.arange(layers, device=rng.device)[:, None].expand(layers, ops)
    counter = (op, layer, (offset & _MASK).expand(layers, ops), ((offset >> 32) & _MASK).expand(layers, ops))
    word0, word1, _, _ = _philox4x32(counter, (seed & _MASK, (seed >> 32) & _MASK))
    bits = (word0 << 20) | (word1 >> 12)
    u = (bits.double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(u))
