"""A step of stochastic gradient descent, which clips the gradients on the way."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asose_fast.ops import registry
from asose_fast.ops.autograd import transformed
from asose_fast.ops.checks import (
    as_list,
    check_flag,
    check_floats,
    check_length,
    check_like,
    check_number,
    check_tensor,
)
from asose_fast.ops.dtypes import FLOATS, WIDE
from asose_fast.ops.library import PLAIN, define, present
from asose_fast.ops.reference.sgd import reference
from asose_fast.ops.whole import whole

registry.register(
    "sgd",
    {"reference": "asose_fast.ops.reference.sgd", "cpu": "asose_fast.ops.native.sgd"},
    small=True,
)
_kind = attrgetter("shape", "dtype", "layout")


class Clip(NamedTuple):
    """Gradients are multiplied by min(1, bound / (norm + 1e-6)), as `nn.utils.clip_grads_with_norm_` does."""

    norm: Tensor
    """A scalar, float32 or float64: the norm of all gradients."""
    bound: float


def sgd(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    *,
    rate: float,
    momentum: float = 0.0,
    decay: float = 0.0,
    nesterov: bool = False,
    clip: Clip | None = None,
) -> None:
    """Updates parameters and momenta in place, by one pass over memory; the gradients stay as they are.

        d = min(1, bound / (norm + 1e-6)) g + decay p        m <- momentum m + d
        p <- p - rate m        p <- p - rate (d + momentum m) with `nesterov`        p <- p - rate d without momentum

    This is `nn.utils.clip_grads_with_norm_` and `torch.optim.SGD.step` up to rounding. A norm that is not finite
    spoils the parameters as there: where it is NaN all become NaN; where it is infinite, those elements do whose
    gradient is.

    Args:
        parameters: any number of float16, bfloat16, float32 or float64 tensors, of any shapes.
        gradients: of the same shapes and dtypes.
        momenta: likewise; none where `momentum` is 0.
        rate: the learning rate.
        momentum, decay: the factors of m and p.
        nesterov: as above.
        clip: None: the gradients count as they are.

    Raises:
        TypeError, ValueError: an argument of the wrong type, dtype, shape or device, or momenta without momentum.
    """
    norm, bound = (None, 0.0) if clip is None else clip
    named = zip(("parameters", "gradients", "momenta"), (parameters, gradients, momenta), strict=True)
    lists = [as_list(f"sgd: {name}", tensors) for name, tensors in named]
    arguments: list[Any] = [*lists, norm, bound, rate, momentum, decay, nesterov]
    if any(lists):
        _check_numbers(Step(*arguments))
        if not whole("sgd", [t for tensors in lists for t in tensors] + present([norm]), *arguments):
            _ordinary(*arguments)


@torch.no_grad()
def _ordinary(*arguments: Any) -> None:
    _check_tensors(Step(*arguments))
    (reference if transformed() else sgd_fwd.unchecked)(*arguments)


class Step(NamedTuple):
    """The arguments of the registered operator."""

    parameters: list[Tensor]
    gradients: list[Tensor]
    momenta: list[Tensor]
    norm: Tensor | None
    bound: float
    rate: float
    momentum: float
    decay: float
    nesterov: bool


def _run(*args: Any) -> None:
    registry.select("sgd", args[0][0]).forward(*args)


def _check(*args: Any) -> None:
    step = Step(*args)
    _check_numbers(step)
    _check_tensors(step)


def _check_numbers(step: Step) -> None:
    """Of numbers, and of how many tensors there are."""
    for name in ("bound", "rate", "momentum", "decay"):
        check_number(f"sgd: {name}", getattr(step, name))
    check_flag("sgd: nesterov", step.nesterov)
    count = len(step.parameters)
    check_length("sgd: parameters", step.parameters, 1, max(1, count))
    check_length("sgd: gradients", step.gradients, count, count)
    check_length("sgd: momenta", step.momenta, *(2 * [count if step.momentum else 0]))
    if step.norm is not None:
        check_tensor("sgd: norm", step.norm)
    check_like("sgd: norm", step.norm, (), *WIDE)


def _check_tensors(step: Step) -> None:
    for name in ("parameters", "gradients", "momenta"):
        if not PLAIN.issuperset(map(type, getattr(step, name))):
            for i, tensor in enumerate(getattr(step, name)):
                check_tensor(f"sgd: {name}[{i}]", tensor)
    kinds = list(map(_kind, step.parameters))
    for i, (_, dtype, layout) in enumerate(kinds):
        if dtype not in FLOATS or layout is not torch.strided:
            check_floats(f"sgd: parameters[{i}]", step.parameters[i])
    for name, others in (("gradients", step.gradients), ("momenta", step.momenta)):
        if others and kinds != list(map(_kind, others)):
            for i, (shape, dtype, _) in enumerate(kinds):
                check_tensor(f"sgd: {name}[{i}]", others[i])
                check_like(f"sgd: {name}[{i}]", others[i], shape, dtype)


def _fake(*args: Any) -> None:
    return None


sgd_fwd = define(
    "sgd(Tensor(a!)[] parameters, Tensor[] gradients, Tensor(b!)[] momenta, Tensor? norm, float bound, float rate, "
    "float momentum, float decay, bool nesterov) -> ()",
    _run,
    _fake,
    _check,
)
