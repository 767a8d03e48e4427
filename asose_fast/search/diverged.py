"""What is said when a loss or an architecture logit stops being a number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asose_fast.space.network import Network


class SearchDivergedError(RuntimeError):
    """The loss or alpha became NaN or infinite; the message names phase, epoch, step, layer and operation."""


@torch.no_grad()
def first_nonfinite(network: Network, alpha: Tensor, x: Tensor, path: Sequence[int] | None) -> str:
    """Names the first part whose parameters or output on `x` are not finite, down to the layer and its operation.

    `path` leads through the network; of every layer all operations are looked at, since an alpha step uses them all.
    """
    if not x.isfinite().all():
        return "the input images"
    x = network.stem(x)
    if not _finite(network.stem, x):
        return "the stem"
    for i, block in enumerate(network.evolvable_blocks()):
        for name, op in block.mixed.ops.items():
            if not _finite(op, op(x)):
                return f"layer {i}, operation {name}"
        x = block(x, index=None if path is None else path[i])
        if not _finite(block, x):
            return f"layer {i}, gain or projection"
    if not _finite(network.head, network.head(x)):
        return "the classifier"
    for i, k in (~alpha.isfinite()).nonzero().tolist():
        return f"alpha of layer {i}, operation {network.evolvable_blocks()[i].spec.candidates[k]}"
    return "the loss"


def _finite(module: nn.Module, output: Tensor) -> bool:
    return bool(output.isfinite().all()) and all(bool(p.isfinite().all()) for p in module.parameters())
