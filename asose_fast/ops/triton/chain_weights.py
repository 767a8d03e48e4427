# mypy: disable-error-code="import-untyped, untyped-decorator"
"""The depthwise weights of a chain of separable convolutions in Triton, packed in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from asose_fast.ops.separable_norm_call import rows_of_params
from asose_fast.ops.triton.tiles import launched


@launched
@triton.jit
def _chain_kernel(
    depthwise: tl.tuple,
    table: tl.tensor,  # params of the stages, one after the other
    channels: tl.int64,
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    line = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    there = channel < channels
    to = table + line.to(tl.int64) * channels + channel
    for s in tl.static_range(len(TAPS)):
        if (line >= 0) & (line < TAPS[s]):
            w = tl.load(depthwise[s] + channel.to(tl.int64) * TAPS[s] + line, mask=there, other=0.0)
            tl.store(to, w.to(table.dtype.element_ty), mask=there)
        line -= ROWS[s]


def pack(depthwise: list[Tensor], dtype: torch.dtype) -> Tensor:
    """The params of the stages as `multi_depthwise` takes them, one after the other, (rows, C): of these the taps.

    The last two rows of every stage but the first are left to the norm before it.
    """
    channels, taps = depthwise[0].shape[0], tuple(w.shape[2] * w.shape[3] for w in depthwise)
    lengths, block = tuple(rows_of_params(depthwise)), min(triton.next_power_of_2(channels), 128)
    table = torch.empty(sum(lengths), channels, dtype=dtype, device=depthwise[0].device)
    _chain_kernel[(len(table), triton.cdiv(channels, block))](
        tuple(w.contiguous() for w in depthwise), table, channels, taps, lengths, block
    )
    return table
