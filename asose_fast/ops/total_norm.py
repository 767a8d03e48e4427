"""The norm of all gradients of a step, by which they are clipped."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autograd import transformed
from asose_fast.ops.checks import as_list, check_floats, check_length
from asose_fast.ops.dtypes import FLOATS, widest
from asose_fast.ops.library import PLAIN, define
from asose_fast.ops.reference.total_norm import reference
from asose_fast.ops.whole import whole

registry.register(
    "total_norm",
    {"reference": "asose_fast.ops.reference.total_norm", "cpu": "asose_fast.ops.native.total_norm"},
    small=True,
)
_kind = attrgetter("dtype", "layout")
_DENSE = {(dtype, torch.strided) for dtype in FLOATS}


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all elements of several tensors, outside autograd: `nn.utils.get_total_norm(tensors)`.

        norm = sqrt(sum_i sum_j x_ij^2)

    On the CPU squares are summed in float64, in an order that the sizes alone determine, so that the norm does not
    depend on the number of threads. Above 1.8e19, where squares are infinite in float32, that of PyTorch is infinite.

    Args:
        tensors: any number of float16, bfloat16, float32 or float64 tensors on one device, of any shapes.

    Returns:
        A scalar, in the widest dtype of the tensors; 0 for none.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype or device.
    """
    tensors = as_list("total_norm: tensors", tensors)
    if not tensors:
        return torch.zeros(())
    norm: Tensor | None = whole("total_norm", tensors, tensors)
    return _ordinary(tensors) if norm is None else norm


@torch.no_grad()
def _ordinary(tensors: list[Tensor]) -> Tensor:
    _check(tensors)
    norm: Tensor = reference(tensors) if transformed() else total_norm_fwd.unchecked(tensors)
    return norm


def _run(tensors: list[Tensor]) -> object:
    return registry.select("total_norm", tensors[0]).forward(tensors)


def _check(tensors: list[Tensor]) -> None:
    check_length("total_norm: tensors", tensors, 1, len(tensors))
    if PLAIN.issuperset(map(type, tensors)) and _DENSE.issuperset(map(_kind, tensors)):
        return
    for i, tensor in enumerate(tensors):
        check_floats(f"total_norm: tensors[{i}]", tensor)


def _fake(tensors: list[Tensor]) -> Tensor:
    return tensors[0].new_empty((), dtype=widest(tensors))


total_norm_fwd = define("total_norm(Tensor[] tensors) -> Tensor", _run, _fake, _check)
