"""A lone candidate is blended with the shortcut, in one operator with its last norm where it ends in one."""

from __future__ import annotations

from torch import Tensor, nn

from asose_fast.ops.torch_faults import usual_gradient
from asose_fast.space.outputs import blend
from asose_fast.space.parts.part import in_turn
from asose_fast.space.stacked import Branches


def blended(op: nn.Module, x: Tensor, gain: Tensor, shortcut: Tensor, branches: Branches | None) -> Tensor:
    """Returns s + g * (op(x) - s); without `branches`, which are those of the candidate, as PyTorch computes it.

    Raises ValueError where the shortcut is not of the shape of op(x).
    """
    if branches is not None and (found := branches.up_to_norm(x)):
        parts, last = found
        return last.blended(in_turn(parts, x), gain, shortcut)
    y: Tensor = op(x)
    if y is not x:
        usual_gradient(y)
    return blend(y, gain, shortcut)
