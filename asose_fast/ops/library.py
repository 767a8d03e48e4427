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

    def call(*args: Any) -> Any:
        return registered(*args) if _observed(_first_tensor(args)) else body(*args)

    return call


def _observed(tensor: Tensor) -> bool:
    """Whether the dispatcher has more to do than to call the body: tracing, modes, subclasses, devices, profiling."""
    if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack():
        return True
    plain = tensor.is_cpu and type(tensor) in (Tensor, nn.Parameter)
    return not plain or torch.autograd.profiler._is_profiler_enabled


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
