"""What is said when a loss or an architecture logit stops being a number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from asose_fast.space.network import Network


class SearchDivergedError(RuntimeError):
    """The loss or alpha became NaN or infinite; the message names phase, epoch, step, layer and operation."""


@torch.no_grad()
def first_nonfinite(network: Network, x: Tensor, path: Sequence[int] | None) -> str:
    """Names the first layer, and its operation, whose parameters or output on `x` are not finite."""
    if not x.isfinite().all():
        return "the input images"
    layers: list[tuple[str, nn.Module]] = [("the stem", network.stem)]
    x = network.stem(x)
    if not _finite(network.stem, x):
        return layers[0][0]
    for i, block in enumerate(network.evolvable_blocks()):
        names = block.spec.candidates
        chosen = range(len(names)) if path is None and len(names) > 1 else [0 if path is None else path[i]]
        for k in chosen:
            op = block.mixed.ops[names[k]]
            if not _finite(op, op(x)):
                return f"layer {i}, operation {names[k]}"
        x = block(x, index=chosen[0])
        if not _finite(block, x):
            return f"layer {i}, gain or projection"
    return "the classifier"


def _finite(module: nn.Module, output: Tensor) -> bool:
    return bool(output.isfinite().all()) and all(bool(p.isfinite().all()) for p in module.parameters())


def require_finite_rows(alpha: Tensor, where: str) -> None:
    """Raises SearchDivergedError naming the layers whose logits are not finite."""
    bad = (~alpha.isfinite()).any(1).nonzero().flatten().tolist()
    if bad:
        raise SearchDivergedError(f"alpha of layer {', '.join(map(str, bad))} is not finite {where}")
