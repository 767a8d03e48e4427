# mypy: disable-error-code="import-untyped, untyped-decorator"
"""Gumbel noise from Philox4x32-10 inside a Triton kernel: the numbers of `ops.gumbel_noise`."""

from __future__ import annotations

import triton
import triton.language as tl

_LOW = tl.constexpr(0xFFFFFFFF)


@triton.jit
def gumbel(seed: tl.tensor, offset: tl.tensor, layer: tl.tensor, op: tl.tensor) -> tl.tensor:
    """float64 G of `layer` (scalar) and `op` (vector), from the int64 scalars `seed` and `offset`."""
    # 32-bit words in 64-bit registers, so that both halves of a product come from one multiplication.
    c0, c1 = op.to(tl.uint64), layer.to(tl.uint64)
    c2, c3 = offset.to(tl.uint64) & _LOW, offset.to(tl.uint64) >> 32
    k0, k1 = seed.to(tl.uint64) & _LOW, seed.to(tl.uint64) >> 32
    for _ in tl.static_range(10):
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (product1 >> 32) ^ c1 ^ k0, product1 & _LOW, (product0 >> 32) ^ c3 ^ k1, product0 & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    bits = (c0 << 20) | (c1 >> 12)
    u = (bits.to(tl.float64) + 0.5) * 2.0**-52
    return -tl.log(-tl.log(u))
