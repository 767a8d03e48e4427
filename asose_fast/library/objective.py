"""What a search minimises, and what it measures."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from asose_fast.engine.metric import ACCURACY, Kind
from asose_fast.engine.metric import Metric as Measured
from asose_fast.engine.step.steps import StepResult, classification

Loss = Callable[[Any, Any], Tensor]
"""Of the model's output and the targets of a batch: a scalar, the mean over the batch."""
Metric = Callable[[Any, Any], "Tensor | float"]
"""Of the same: a score, the mean over the batch, the higher the better."""
_LABELS = (torch.int64, torch.uint8)
"""The types that cross-entropy takes labels in."""
_IGNORED = -100
"""A label that cross-entropy leaves out."""
_OF_ERRORS = re.compile(r"loss|error|(^|_)(r?mse|mae|mape)(_|$)")
_TURNED = re.compile(r"(^|_)(neg|negative|minus|no)(_|$)|^neg")
"""These words in a name say that the sign of an error is changed."""
_OWN_LOSS = "give a loss of your own, loss=function(outputs, targets)"


@dataclasses.dataclass
class LibraryObjective:
    """`loss` and `metric` of a batch; without a loss cross-entropy, without a metric accuracy or, of a loss that is
    given, the loss with the sign changed."""

    loss: Loss | None = None
    metric: Metric | None = None
    classes: int | None = None
    """Where accuracy is measured, as many as the model has scores, once it has run."""

    @property
    def measures(self) -> Measured:
        """What is called accuracy, under the names of the functions given."""
        loss = ACCURACY.loss if self.loss is None else _name(self.loss, "loss")
        if self.metric is not None:
            return Measured("score", _name(self.metric, "score"), loss)
        return ACCURACY if self.loss is None else Measured("loss", loss, loss)

    def __call__(self, outputs: Any, y: Any) -> StepResult:
        if self.loss is None:
            result = self._classification(outputs, y)
        else:
            loss = self.loss(outputs, y)
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                what = f"of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
                raise ValueError(f"the loss must be a tensor with one value, got one {what}")
            result = StepResult(loss.reshape(()), -loss.detach().reshape(()), 1, False)
        count = size(y)
        if self.metric is not None:
            with torch.no_grad():
                score = _one_number(self.metric(outputs, y)).to(result.loss.device, torch.float64)
            return result._replace(correct=score.reshape(()) * count, images=count)
        return result if self.loss is None else result._replace(correct=result.correct * count, images=count)

    def _classification(self, outputs: Any, y: Any) -> StepResult:
        """Cross-entropy and accuracy; labels that the former ignores do not count in the latter either."""
        if not isinstance(outputs, Tensor) or outputs.dim() < 2:
            raise ValueError(
                f"the model returned {_described(outputs)}, which is no table of class scores (N, classes): {_OWN_LOSS}"
            )
        if not isinstance(y, Tensor) or not y.dim() or y.shape[1:] != outputs.shape[2:] or y.dtype not in _LABELS:
            shape = ", ".join(map(str, ("N", *outputs.shape[2:])))
            raise ValueError(
                f"targets must be class labels, int64 of shape ({shape}{',' * (outputs.dim() == 2)}), for scores of "
                f"shape {tuple(outputs.shape)}; got {_described(y)}: change them, or {_OWN_LOSS}"
            )
        if self.metric is None:
            self.classes = outputs.shape[1]
        try:
            result = classification(outputs, y)
        except IndexError as error:  # of torch on the CPU; on CUDA an assertion ends the process's work there
            raise ValueError(
                f"labels must be 0 to {outputs.shape[1] - 1}, as the model returned {outputs.shape[1]} scores, got "
                f"{int(y.min())} to {int(y.max())}"
            ) from error
        counted = (y[: result.images] != _IGNORED).sum().clamp(min=1)
        return result._replace(correct=result.correct.double() * result.images / counted)


def _one_number(score: Any) -> Tensor:
    """What a metric returned, as a tensor. Raises ValueError where it is not one number."""
    try:
        found = torch.as_tensor(score)
    except (TypeError, ValueError, RuntimeError):
        found = None
    if found is None or found.numel() != 1 or found.is_complex():
        raise ValueError(
            f"the metric must return one number, the mean score of the batch, got {_described(score)}"
        ) from None
    return found


def doubt(measured: Measured) -> str | None:
    """Says which direction is assumed of a score that seems to be an error by its name; None of any other metric."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", measured.name).lower()
    if measured.kind != "score" or not _OF_ERRORS.search(name) or _TURNED.search(name):
        return None
    return (
        f"the metric {measured.name} is taken as {measured.direction}, and is named like an error. If less is better, "
        "give its negative"
    )


def _name(function: Any, unnamed: Kind) -> str:
    """The name of a function, or of the class of an object that is called; `unnamed` for a lambda."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return unnamed if name == "<lambda>" else str(name)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    return type(value).__name__


def size(y: Any) -> int:
    """The number of examples of a batch: the length of its first tensor."""
    if isinstance(y, dict):
        y = list(y.values())
    if isinstance(y, (list, tuple)) and y:
        return size(y[0])
    return len(y) if isinstance(y, Tensor) and y.dim() else 1
