"""The torch.library namespace `asose_fast`: schema, body, fake and check of every operator.

The registered operators are private: they know no autograd and silently give no gradient. The public functions of
`asose_fast.ops` wrap them. Still, whoever calls them directly gets an error where kernels would leave the tensors'
memory.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from asose_fast.ops.checks import check_tensor

PLAIN = frozenset({Tensor, nn.Parameter})
"""Types of tensors whose memory holds what they are; a subclass may be quantized, distributed or a stand-in."""

Call = Callable[..., Any]

_library = torch.library.Library("asose_fast", "DEF")
_is_there, _is_cpu, _is_neg = functools.partial(operator.is_not, None), attrgetter("is_cpu"), Tensor.is_neg


class Operator(Protocol):
    """A registered operator as a function of its arguments."""

    body: Call
    """What runs where the arguments have been checked and nobody listens to the dispatcher."""
    unchecked: Call
    """The operator without its checks where nobody listens: for arguments that have been checked."""

    def __call__(self, *args: Any) -> Any: ...


def define(schema: str, body: Call, fake: Call, check: Callable[..., None]) -> Operator:
    """Registers an operator that runs `body` on CPU and CUDA tensors and `fake` when only shapes are wanted.

    Ahead of both runs `check`: it raises TypeError or ValueError unless counts, shapes, dtypes and ranges are such that
    kernels read and write nothing but the tensors. That these are dense, on one device and in memory is checked here.

    Returns the function to call it by: `check` and `body` themselves where nobody listens to PyTorch's dispatcher,
    which takes its time to call back into Python.
    """
    name = _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    registered = getattr(torch.ops.asose_fast, name).default
    kinds = [str(argument.type) for argument in registered._schema.arguments]
    lists, singles = (
        [i for i, kind in enumerate(kinds) if "Tensor" in kind and kind.startswith("List") == several]
        for several in (True, False)
    )

    def checked(function: Callable[..., Any], in_memory: bool) -> Callable[..., Any]:
        @functools.wraps(function)
        def checking(*args: Any) -> Any:
            _check_tensors(registered, args, in_memory)
            check(*args)
            return function(*args)

        return checking

    _library.impl(name, checked(body, True), "CPU")
    _library.impl(name, checked(_on_their_device(body), True), "CUDA")
    torch.library.register_fake(f"asose_fast::{name}", checked(fake, False), lib=_library)

    def listened_to(args: Sequence[Any]) -> bool:
        tensors = [args[i] for i in singles]
        for i in lists:
            tensors += args[i]
        return observed(tensors)

    def call(*args: Any) -> Any:
        if listened_to(args):
            return registered(*args)
        check(*args)
        return body(*args)

    def unchecked(*args: Any) -> Any:
        return registered(*args) if listened_to(args) else body(*args)

    function = cast(Operator, call)
    function.body, function.unchecked = body, unchecked
    return function


def _check_tensors(op: torch._ops.OpOverload, args: Sequence[Any], in_memory: bool) -> None:
    """Raises where the tensors of a call are not dense, on one device and, if that is asked for, in memory."""
    device = None
    for argument, value in zip(op._schema.arguments, args, strict=True):
        where = f"{op._schema.name.removeprefix('asose_fast::')}: {argument.name}"
        for tensor in value if isinstance(value, (list, tuple)) else (value,):
            if not isinstance(tensor, Tensor):
                continue
            check_tensor(where, tensor)
            device = device or tensor.device
            if tensor.device != device:
                raise ValueError(f"{where} is on {tensor.device}, other tensors are on {device}")
            if in_memory and not _in_memory(tensor):
                raise ValueError(f"{where} is a tensor of shape {tuple(tensor.shape)} whose storage was resized")


def _in_memory(tensor: Tensor) -> bool:
    """Whether a tensor's storage holds all of its elements."""
    if tensor.numel() == 0:
        return True
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.untyped_storage().nbytes() >= (tensor.storage_offset() + last + 1) * tensor.element_size()


def present(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    """The tensors that are not None."""
    return list(filter(_is_there, tensors))  # type: ignore[arg-type]


def observed(tensors: Sequence[Tensor | None]) -> bool:
    """Whether the dispatcher has more to do than to call an operator's body on these tensors.

    Compilation, modes, transforms of torch.func, tracing and profiling are for it. So are subclasses, tensors of other
    devices, and lazily negated ones, whose values are not what lies in their memory. (Conjugated tensors are complex,
    and no operator takes them.)
    """
    if torch.compiler.is_compiling() or (
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state()
        or torch.autograd.profiler._is_profiler_enabled
    ):
        return True
    # Without a loop in Python, which takes twice as long.
    there = present(tensors)
    return not PLAIN.issuperset(map(type, there)) or False in map(_is_cpu, there) or True in map(_is_neg, there)


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
