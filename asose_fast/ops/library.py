"""The torch.library namespace `asose_fast`: schema, body and fake of every operator.

The registered operators are private: they know no autograd and silently give no gradient. The public functions of
`asose_fast.ops` wrap them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN = frozenset({Tensor, nn.Parameter})

_library = torch.library.Library("asose_fast", "DEF")


def define(schema: str, body: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Registers an operator that runs `body` on CPU and CUDA tensors and `fake` when only shapes are wanted.

    Returns the function to call it by: `body` itself where nobody listens to PyTorch's dispatcher, which takes its time
    to call back into Python.
    """
    name = _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, body, "CPU")
    _library.impl(name, _on_their_device(body), "CUDA")
    torch.library.register_fake(f"asose_fast::{name}", fake, lib=_library)
    registered = getattr(torch.ops.asose_fast, name).default
    kinds = [str(argument.type) for argument in registered._schema.arguments]
    lists, singles = (
        [i for i, kind in enumerate(kinds) if "Tensor" in kind and kind.startswith("List") == several]
        for several in (True, False)
    )

    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return registered(*args)
        tensors = [args[i] for i in singles]
        for i in lists:
            tensors += args[i]
        if not _observed(tensors):
            return body(*args)
        if len(devices := {str(t.device) for t in tensors if t is not None}) > 1:
            raise ValueError(f"{name}: all tensors must be on one device, got {' and '.join(sorted(devices))}")
        return registered(*args)

    return call


def _observed(tensors: list[Tensor | None]) -> bool:
    """Whether the dispatcher has more to do than to call the body.

    Modes, transforms of torch.func, tracing and profiling are for it; so are subclasses, tensors of other devices, and
    lazily negated ones, whose values are not what lies in their memory. (Conjugated ones are complex, and no operator
    takes them.)
    """
    if (
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state()
        or torch.autograd.profiler._is_profiler_enabled
    ):
        return True
    for t in tensors:  # noqa: SIM110 - any() takes longer than the microsecond that this does for ten
        if t is not None and (type(t) not in _PLAIN or not t.is_cpu or t.is_neg()):
            return True
    return False


def _on_their_device(body: Callable[..., Any]) -> Callable[..., Any]:
    """Launches go to the current device, which need not be that of the tensors."""

    @functools.wraps(body)
    def guarded(*args: Any) -> Any:
        with torch.cuda.device(_first_tensor(args).device):
            return body(*args)

    return guarded


def _first_tensor(args: Sequence[Any]) -> Tensor:
    """The first one, in a list or not: all of an operator's tensors are on one device."""
    for arg in args:
        for value in arg if isinstance(arg, (list, tuple)) else (arg,):
            if isinstance(value, Tensor):
                return value
    raise TypeError("an operator needs a tensor")
