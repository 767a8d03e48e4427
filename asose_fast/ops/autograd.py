"""What PyTorch asks of an operator beyond its value and first derivatives: there, plain PyTorch takes over.

A public function gives its `reference` where it is `transformed`. An autograd Function keeps tensors by `save`, and its
`backward` is `twice_differentiable`. Its `forward`, where the number of tensors varies, takes `*arguments` alone, ctx
first: without gradients, torch.compile leaves ctx out where there are as many arguments as parameters (torch 2.13).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from asose_fast.ops.autocast import without_autocast
from asose_fast.ops.library import Operator, present
from asose_fast.ops.tracing import tracing

_hooks = torch._C._autograd._top_saved_tensors_default_hooks

Backward = Callable[..., tuple[Tensor | None, ...]]


def transformed() -> bool:
    """Whether PyTorch follows a call by its own operators alone: in forward mode (dual tensors), in a transform of
    torch.func (vmap, grad, jvp), or to record it (`tracing`)."""
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active() or tracing()


def save(ctx: Any, *tensors: Tensor | None) -> None:
    """`ctx.save_for_backward`, which takes no tensors made under torch.inference_mode: of these, copies."""
    looked_at = not (torch.compiler.is_compiling() or torch.is_inference_mode_enabled())
    if looked_at and True in map(Tensor.is_inference, present(tensors)):
        tensors = tuple([t if t is None or not t.is_inference() else t.clone() for t in tensors])
    # Where hooks are there, others may be handed back than were saved.
    ctx.exchanged = torch.compiler.is_compiling() or saved_elsewhere()
    ctx.save_for_backward(*tensors)


def saved_elsewhere() -> bool:
    """Whether hooks take the tensors that are saved for backward."""
    return _hooks(False) is not None


def on_saved(ctx: Any, operator: Operator) -> Callable[..., Any]:
    """The operator for a backward pass, without its checks where the tensors are those that `save` was given."""
    return operator if ctx.exchanged else operator.unchecked


def batched(*tensors: Tensor | None) -> bool:
    """Whether tensors stand for several, in torch.func.vmap or in torch.autograd.grad with is_grads_batched."""
    if torch.compiler.is_compiling():
        return False
    if torch._C._are_functorch_transforms_active():
        return True
    for t in tensors:  # noqa: SIM110 - any() takes longer
        if t is not None and torch._C._functorch.is_legacy_batchedtensor(t):
            return True
    return False


def twice_differentiable(differentiable: Backward) -> Callable[[Backward], Backward]:
    """In place of `once_differentiable`: has `differentiable`, a backward made of differentiable operators, run where
    the gradients are to be differentiated themselves (create_graph=True) or are batched by vmap."""

    def decorate(backward: Backward) -> Backward:
        @functools.wraps(backward)
        def chosen(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
            if torch.is_grad_enabled() or batched(*grads):
                return differentiable(ctx, *grads)
            return backward(ctx, *grads)

        return chosen

    return decorate


def gradients(
    ctx: Any, plain: Callable[..., Tensor | Sequence[Tensor]], arguments: Sequence[Any], grads: Sequence[Tensor | None]
) -> tuple[Tensor | None, ...]:
    """What a backward gives, from `plain`, the function in plain PyTorch, at the arguments of the forward pass."""
    again, needs = torch.is_grad_enabled(), ctx.needs_input_grad
    present = next((g for g in grads if g is not None), None)
    if present is None:
        return (None,) * len(needs)
    with torch.enable_grad(), without_autocast(present):
        # An alias for every argument: a tensor that is given twice has a gradient for each.
        arguments = [a.view_as(a) if need else a for a, need in zip(arguments, needs, strict=True)]
        outputs = plain(*arguments)
        pairs = [
            (output, grad)
            for output, grad in zip([outputs] if isinstance(outputs, Tensor) else outputs, grads, strict=True)
            if grad is not None and output.requires_grad
        ]
        if not pairs:
            return (None,) * len(needs)
        values, given = zip(*pairs, strict=True)
        wanted = [a for a, need in zip(arguments, needs, strict=True) if need]
        found = iter(torch.autograd.grad(values, wanted, given, create_graph=again, allow_unused=True))
    return tuple(next(found) if need else None for need in needs)


def differentiable(plain: Callable[[Any], tuple[Callable[..., Tensor], Sequence[Any]]]) -> Backward:
    """A backward made of differentiable operators, where `plain` gives, from its ctx, the function in plain PyTorch and
    the arguments of the forward pass."""

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        function, arguments = plain(ctx)
        return gradients(ctx, function, arguments, grads)

    return backward


def once_differentiable(y: Tensor, why: str) -> Tensor:
    """y, whose backward raises RuntimeError, saying why, where its gradients are to be differentiated themselves."""

    def refuse(grad: Tensor) -> None:
        if torch.is_grad_enabled():
            raise RuntimeError(f"no second derivatives: {why}")

    if y.requires_grad and not torch.compiler.is_compiling():
        y.register_hook(refuse)
    return y


def stand_in(grad: Tensor) -> Tensor:
    """In place of an argument like `grad` that was not kept, because the gradients do not depend on it."""
    return grad.detach().new_zeros(()).requires_grad_().expand_as(grad)
