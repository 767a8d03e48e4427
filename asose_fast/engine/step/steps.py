"""One optimisation step: a single forward pass gives loss, accuracy and counts."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.alpha.second_order import unrolled_gradient
from asose_fast.engine.processes import ALONE, Processes
from asose_fast.engine.step.gradients import sum_gradients
from asose_fast.engine.step.precision import Precision, computing
from asose_fast.engine.step.sgd import SGD
from asose_fast.engine.step.sync_batch_norm import SyncBatchNorm2d
from asose_fast.ops import cross_entropy
from asose_fast.ops.dtypes import WIDE
from asose_fast.space.supernet import Supernet

Objective = Callable[[Any, Any], "StepResult"]
"""Of a network's outputs and the targets: what a step minimises and counts."""
LossCheck = Callable[[Tensor], None]
GradientCheck = Callable[[Tensor], None]
"""Of the norm of all gradients."""
Regularizer = Callable[[], Tensor]
"""A scalar function of alpha that is added to the validation loss."""


class StepResult(NamedTuple):
    """What a step yields, on the device, over the images of all processes: reading it is the caller's choice."""

    loss: Tensor
    """Mean over the images (scalar), of the cross-entropy where nothing else is asked for."""
    correct: Tensor
    """Number of right predictions (scalar), or the sum of another score over the images."""
    images: int
    size_error: bool
    """Outputs and targets disagreed in length and were trimmed."""


def classification(
    scores: Tensor, y: Tensor, smoothing: float = 0.0, class_weights: Tensor | None = None
) -> StepResult:
    """Cross-entropy and right predictions of class scores (N, classes) for labels (N,).

    y may also be targets (N, classes) that add up to 1, of which the largest counts as the label. All classes alike
    get the share `smoothing` of the target.

    With `class_weights` w (classes,) an image of class c counts w_c times, with its smoothed target, and a mixed one
    counts as its shares t_c of such images:

        loss = 1/N sum_i sum_c t_ic w_c H((1 - smoothing) onehot(c) + smoothing / classes, softmax(scores_i))

    H is the cross-entropy. The mean is over the images, whatever their weights, so that it does not depend on how they
    are put into batches; those of w over all images should have the mean 1 (`recipe.class_weights.balanced`).
    """
    size_error = len(scores) != len(y)
    if size_error:
        warnings.warn(
            f"the model returned {len(scores)} outputs for {len(y)} targets; both are trimmed to the shorter",
            RuntimeWarning,
            stacklevel=3,
        )
        images = min(len(scores), len(y))
        scores, y = scores[:images], y[:images]
    if class_weights is None and _for_kernels(scores, y):
        return StepResult(*cross_entropy(scores, y, smoothing), len(y), size_error)
    targets = y
    if class_weights is not None and len(y):
        targets, smoothing = _weighted_targets(y, smoothing, class_weights), 0.0
    loss = F.cross_entropy(scores, targets, reduction="mean" if len(y) else "sum", label_smoothing=smoothing)
    labels = y.argmax(1) if y.is_floating_point() else y
    return StepResult(loss, (scores.argmax(1) == labels).sum(), len(y), size_error)


def _for_kernels(scores: Tensor, y: Tensor) -> bool:
    """Whether kernels take these scores and labels."""
    plain = type(scores) is Tensor and scores.is_cpu and scores.dtype in WIDE and y.dtype is torch.int64
    return plain and scores.dim() == 2 and len(y) > 0 and y.shape == scores.shape[:1]


def _weighted_targets(y: Tensor, smoothing: float, class_weights: Tensor) -> Tensor:
    """Returns the targets (N, classes) of labels or targets y, weighted and smoothed. A row adds up to the weight of
    its image."""
    weighted = y * class_weights if y.is_floating_point() else class_weights.diag()[y]
    return weighted.lerp(weighted.mean(1, keepdim=True), smoothing)


def weight_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Any,
    path: list[int] | None,
    *,
    mixture: Tensor | None = None,
    clip: float = 0.0,
    check: LossCheck | None = None,
    check_gradient: GradientCheck | None = None,
    processes: Processes = ALONE,
    objective: Objective = classification,
    precision: Precision = "fp32",
) -> StepResult:
    """Updates the weights on the sampled path alone, or all of them where `mixture` (L, K) has the architecture weights
    of a soft mixture (both None for a derived network).

    Candidates off the path get no gradient, and the optimizer leaves them as they are. `clip` bounds the norm of
    the gradient where it is not 0. `check` sees the loss before it can spoil the weights, and `check_gradient` the norm
    where it is bounded, since one gradient that is not finite would then spoil all parameters. x and y are this one's
    part, maybe empty, of the batch that several `processes` have together; the gradient is that of the whole batch.
    `precision` is that of the forward and the backward pass; loss, metrics and update are in float32 in any case.
    """
    plan = {"weights": mixture} if mixture is not None else {} if path is None else {"path": path}
    result = objective(_scores(network, x, plan, precision), y)
    if check:
        check(result.loss)
    optimizer.zero_grad(set_to_none=True)
    result = _backward(result, optimizer, processes)
    if clip:
        _clipped_step(optimizer, clip, check_gradient)
    else:
        optimizer.step()
    return _detached(result)


def _clipped_step(optimizer: torch.optim.Optimizer, bound: float, check: GradientCheck | None) -> None:
    """Takes a step by gradients whose norm is bounded. In place of them, our optimizer scales what it reads."""
    if isinstance(optimizer, SGD):
        optimizer.clipped_step(bound, check)
        return
    parameters = _parameters(optimizer)
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if check:
        check(norm)
    nn.utils.clip_grads_with_norm_(parameters, bound, norm)
    optimizer.step()


class Ahead(NamedTuple):
    """What a second-order alpha step needs besides: how the weights move next, and on which images."""

    optimizer: torch.optim.Optimizer
    x: Tensor
    y: Tensor


def alpha_step(
    network: Supernet,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    draw: Draw,
    *,
    finish: Callable[[Draw], None] | None = None,
    regularizers: Sequence[Regularizer] = (),
    ahead: Ahead | None = None,
    through: Callable[[Draw], tuple[StepResult, Tensor]] | None = None,
    check: LossCheck | None = None,
    processes: Processes = ALONE,
    objective: Objective = classification,
    precision: Precision = "fp32",
) -> StepResult:
    """Updates alpha through the architecture weights of `draw`, and no weight; at first order it computes no weight
    gradient.

    `dL/dw_k = <dL/dy, o_k(x)>` for every candidate that runs, all of them unless `draw` says otherwise
    (docs/concepts.md), at the present weights or, with `ahead`, through their next step
    (`second_order.unrolled_gradient`).
    `finish` may complete the gradient (`Estimator.finish`). `regularizers` add to the gradient and not to the loss of
    the result. `through` gives the result and the gradient of `draw.weights` in another way (`graphs`). `precision` and
    `objective` as in `weight_step`.
    """
    draw = draw.on_host()
    if ahead is None and through is None:
        with frozen(network):
            result = objective(_scores(network, x, _plan(draw, draw.weights), precision), y)
            if check:
                check(result.loss)
            optimizer.zero_grad(set_to_none=True)
            result = _backward(result, optimizer, processes)
    else:
        if ahead is not None:
            result, gradient = _look_ahead(network, ahead, x, y, draw, objective, precision)
        else:
            assert through is not None
            result, gradient = through(draw)
        if check:
            check(result.loss)
        optimizer.zero_grad(set_to_none=True)
        draw.weights.backward(gradient)
    if finish:
        finish(draw)
    for regularizer in regularizers:
        regularizer().backward()
    optimizer.step()
    return _detached(result)


def architecture_gradient(
    network: Supernet,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    *,
    objective: Objective = classification,
    precision: Precision = "fp32",
) -> tuple[StepResult, Tensor]:
    """The result of a batch and dL/dw for architecture weights w (L, K), all candidates run as for a mixture."""
    leaf = weights.detach().requires_grad_()
    with frozen(network):
        result = objective(_scores(network, x, {"weights": leaf}, precision), y)
        (gradient,) = torch.autograd.grad(result.loss, [leaf])
    return _detached(result), gradient


def _plan(draw: Draw, weights: Tensor) -> dict[str, Any]:
    plan = {"weights": weights, "path": draw.path, "kept": draw.kept}
    return {key: value for key, value in plan.items() if value is not None}


def _look_ahead(
    network: Supernet,
    ahead: Ahead,
    x: Tensor,
    y: Tensor,
    draw: Draw,
    objective: Objective,
    precision: Precision,
) -> tuple[StepResult, Tensor]:
    """The result on the validation batch x, y after the weights' next step, and the gradient of `draw.weights`."""
    results = []

    def loss(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
        results.append(objective(_scores(network, x, _plan(draw, weights), precision), y))
        return results[-1].loss

    _, gradient = unrolled_gradient(
        network, ahead.optimizer, draw.weights.detach(), lambda w: loss(w, ahead.x, ahead.y), lambda w: loss(w, x, y)
    )
    return results[1], gradient


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Takes the parameters of a module out of autograd inside the block."""
    parameters = [p for p in parameters_of(module) if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def parameters_of(module: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters of a module and its submodules, each once, in no order.

    `Module.parameters` also puts their names together, which takes more than twice as long.
    """
    waiting, modules, found = [module], {id(module)}, dict[int, nn.Parameter]()
    while waiting:
        here = waiting.pop()
        for parameter in here._parameters.values():
            if parameter is not None:
                found[id(parameter)] = parameter
        for inner in here._modules.values():
            if inner is not None and id(inner) not in modules:
                modules.add(id(inner))
                waiting.append(inner)
    return list(found.values())


def _scores(network: nn.Module, x: Tensor, plan: dict[str, Any], precision: Precision) -> Tensor:
    """The forward pass; without images only where norms take the statistics of all processes and so wait for each."""
    if not len(x) and not any(isinstance(module, SyncBatchNorm2d) for module in network.modules()):
        return x.new_zeros(0, 1)
    device = x.device if isinstance(x, Tensor) else next(network.parameters()).device
    with computing(precision, device):
        scores: Tensor = network(x, **plan)
    return scores.float() if precision == "bf16" and isinstance(scores, Tensor) else scores


def _backward(result: StepResult, optimizer: torch.optim.Optimizer, processes: Processes) -> StepResult:
    """The gradient of the loss over the images of all processes, and the result over them."""
    if processes.count == 1:
        result.loss.backward()
        return result
    loss = result.loss * result.images
    if loss.requires_grad:
        loss.backward()
    images, size_error, (loss, correct) = sum_gradients(
        processes, _parameters(optimizer), result.images, result.size_error, loss, result.correct
    )
    return StepResult(loss / max(1, images), correct.round().long(), images, size_error)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _detached(result: StepResult) -> StepResult:
    return result._replace(loss=result.loss.detach())
