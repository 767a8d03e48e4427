"""Computing the outputs of depthwise convolutions again in backward, instead of keeping them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor


def recomputed(ys: Sequence[Tensor]) -> AbstractContextManager[Any]:
    """A context in which whatever is to keep one of `ys` for backward keeps instead how to compute it again.

    `ys` are the outputs of one call of `multi_depthwise` or `norm_depthwise`, whose inputs their graph keeps anyway.
    The first that is asked for in backward brings the others, for one more forward pass of that operator; each is
    gone once it has been used.
    """
    node = ys[0].grad_fn
    if node is None:
        return nullcontext()
    numbers = {y.data_ptr(): b for b, y in enumerate(ys)}
    outputs = _Outputs(node)

    def pack(tensor: Tensor) -> Tensor | _Output:
        number = numbers.get(tensor.data_ptr())
        return tensor if number is None else _Output(outputs, number)

    return torch.autograd.graph.saved_tensors_hooks(pack, _unpack)


class _Outputs:
    """The outputs of the forward pass that `node` is the backward of."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.found: dict[int, Tensor] = {}

    def take(self, number: int) -> Tensor:
        if number not in self.found:
            plan = self.node.plan
            params, *xs = self.node.saved_tensors[-1 - plan.inputs :]
            self.found = dict(enumerate(torch.ops.asose_fast.multi_depthwise_fwd(xs, params, *plan)))
        return self.found.pop(number)


class _Output(NamedTuple):
    outputs: _Outputs
    number: int


def _unpack(packed: Tensor | _Output) -> Tensor:
    return packed.outputs.take(packed.number) if isinstance(packed, _Output) else packed
