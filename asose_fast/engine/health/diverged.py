"""What is said when a loss or an architecture logit stops being a number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from asose_fast.space.build import ImageNetwork
from asose_fast.space.cells import CellNetwork


class SearchDivergedError(RuntimeError):
    """The loss or alpha became NaN or infinite; the message names phase, epoch, step, layer and operation."""


@torch.no_grad()
def nonfinite_gradient(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """Names the parameter where a backward pass first met what is not finite: the last of `named`, in the order of the
    forward pass, whose gradient is not. None where all are."""
    gradients = [(name, p.grad) for name, p in named if p.grad is not None]
    spoiled = [name for name, gradient in gradients if not gradient.isfinite().all()]
    if 1 < len(gradients) == len(spoiled):  # the loss's own gradient, or a norm that all were divided by
        return f"the gradients of all {len(gradients)} parameters"
    return f"the gradient of {spoiled[-1]}" if spoiled else None


@torch.no_grad()
def first_nonfinite(network: ImageNetwork, alpha: Tensor, x: Tensor, path: Sequence[int] | None) -> str:
    """Names the first part whose parameters or output on `x` are not finite, down to the layer and its operation.

    Layers and cells are counted from 1.

    `path` leads through the network; of every layer all operations are looked at, since an alpha step uses them all.
    """
    if not x.isfinite().all():
        return "the input images"
    if isinstance(network, CellNetwork):
        return _first_in_cells(network, alpha, x)
    x = network.stem(x)
    if not _finite(network.stem, x):
        return "the stem"
    for i, block in enumerate(network.evolvable_blocks()):
        for name, op in block.mixed.ops.items():
            if not _finite(op, op(x)):
                return f"layer {i + 1}, operation {name}"
        x = block(x, index=None if path is None else path[i])
        if not _finite(block, x):
            return f"layer {i + 1}, gain or projection"
    if not _finite(network.head, network.head(x)):
        return "the classifier"
    for i, k in (~alpha.isfinite()).nonzero().tolist():
        return f"alpha of layer {i + 1}, operation {network.evolvable_blocks()[i].spec.candidates[k]}"
    return "the loss"


def _first_in_cells(network: CellNetwork, alpha: Tensor, x: Tensor) -> str:
    """In the order in which a mixture of all operations runs them."""
    found: list[str] = []

    def look(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def note(module: nn.Module, _: object, output: Tensor) -> None:
            if not found and not _finite(module, output):
                found.append(name)

        return note

    handles = [network.stem.register_forward_hook(look("the stem"))]
    for i, cell in enumerate(network.mixed_cells()):
        for edge, mixed in zip(cell.edges, cell.ops, strict=True):
            for name, op in mixed.ops.items():  # type: ignore[union-attr, operator]
                where = f"cell {i + 1}, edge {edge.source} to {edge.target}, operation {name}"
                handles.append(op.register_forward_hook(look(where)))
        handles.append(cell.register_forward_hook(look(f"cell {i + 1}")))
    handles.append(network.head.register_forward_hook(look("the classifier")))
    rows, candidates = network.spec.rows, max(len(edge.candidates) for edge in network.spec.edges)
    network(x, x.new_full((rows, candidates), 1 / candidates))
    for handle in handles:
        handle.remove()
    if found:
        return found[0]
    for i, k in (~alpha.isfinite()).nonzero().tolist():
        return f"alpha of row {i + 1}, candidate {k + 1}"
    return "the loss"


def _finite(module: nn.Module, output: Tensor) -> bool:
    return bool(output.isfinite().all()) and all(bool(p.isfinite().all()) for p in module.parameters())
