"""The numbers of a search are to be numbers; here stands what is said where they are not."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from asose_fast.engine.health.diverged import SearchDivergedError, nonfinite_gradient
from asose_fast.engine.phases import Phase
from asose_fast.engine.state import SearchState
from asose_fast.engine.step.steps import GradientCheck, LossCheck
from asose_fast.engine.step.sync_batch_norm import on_its_own

Path = list[int] | None


def loss_check(state: SearchState, what: str, phase: Phase, x: Any, path: Path) -> LossCheck | None:
    """Returns a function that raises SearchDivergedError, or None where reading the loss would make the host wait.

    There `watch` tells within 100 steps, and no checkpoint is written without a look at every parameter.
    """
    if state.device.type != "cpu":
        return None

    def check(loss: Tensor) -> None:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise diverged(state, f"the {what} is {value}", phase, x, path)

    return check


def gradient_check(state: SearchState, phase: Phase) -> GradientCheck:
    """Returns a function that raises SearchDivergedError before the weights are spoiled."""

    def check(norm: Tensor) -> None:
        if not math.isfinite(float(norm)):
            place = nonfinite_gradient(state.task.named_parameters(state.network)) or "the norm of the gradient"
            raise SearchDivergedError(f"{place} is not finite {_when(state, phase)}, though the loss was")

    return check


def watched(state: SearchState) -> list[Tensor]:
    """Returns sums that are finite as long as every loss and alpha is."""
    return [state.weight_meter.loss_sum, state.alpha_meter.loss_sum, state.selector.logits().sum()]


def require_finite(state: SearchState, phase: Phase) -> None:
    """Raises SearchDivergedError where a checkpoint of the present state would replace a good one."""
    tensors = [*state.network.parameters(), *state.selector.alpha]
    if not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
        raise diverged(state, "a parameter is not finite", phase, _some_images(state), None)


def diverged(state: SearchState, what: str, phase: Phase, x: Any, path: Path) -> SearchDivergedError:
    """Returns the error that says where the network is not finite, or gives what is not, on the batch `x`.

    `path` is that of the step; None: the step was one of a mixture or of a derived network.
    """
    named, when = list(state.task.named_parameters(state.network)), _when(state, phase)
    place = nonfinite_gradient(named)
    if place and not all(bool(p.isfinite().all()) for _, p in named):
        return SearchDivergedError(f"{what} {when}: first not finite, a step before: {place}")
    if not len(x):
        x = _some_images(state)
    if not phase.derives:
        path = path or state.best_path()
    with on_its_own(state.network):
        place = state.task.first_nonfinite(state.network, state.selector, x, path)
    return SearchDivergedError(f"{what} {when}: first not finite is {place}")


def _some_images(state: SearchState) -> Any:
    x, _ = next(state.data.train.batches(state.progress.epoch, augment=False))
    return x


def _when(state: SearchState, phase: Phase) -> str:
    progress = state.progress
    return f"in phase {phase.name}, epoch {progress.epoch + 1}, after {progress.step} steps of it"
