"""Launchers of the compiled kernels: they allocate outputs and workspaces and pass addresses."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from asose_fast import _native
from asose_fast.ops.native import launches

DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
"""csrc/dtype.h."""
EXCHANGE = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
"""By which kernels that take lists of tensors look at them (csrc/bindings/tensors.h)."""


def cpu_kernels() -> tuple[ModuleType, int]:
    """The kernels of the CPU, and the last argument of each: the number of threads."""
    kernels = _native.kernels("cpu")
    return kernels if launches.log() is None else launches.Noted(kernels), torch.get_num_threads()  # type: ignore[return-value]


def kernels_of(device: torch.device) -> tuple[ModuleType, int]:
    """The kernels of a device, and the last argument of each: the number of threads on the CPU, else the stream."""
    if device.type == "cpu":
        return cpu_kernels()
    return _native.kernels("cuda"), torch.cuda.current_stream(device).cuda_stream


def addresses(tensors: Sequence[Tensor | None]) -> list[int]:
    """`address` of each."""
    if launches.log() is not None:
        return list(map(address, tensors))
    # Only those of fakes and of empty tensors are 0; the others need no call.
    return [0 if tensor is None else tensor.data_ptr() or address(tensor) for tensor in tensors]


def address(tensor: Tensor | None) -> int:
    """Address of the first element; 0 for an absent tensor. Raises ValueError where the elements are in no memory."""
    if tensor is None:
        return 0
    found = tensor.data_ptr()
    if not found and tensor.numel():
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} has no memory: a fake, or its storage was freed")
    if (log := launches.log()) is not None:
        log.note(tensor)
    return found
