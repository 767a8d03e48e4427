"""Which backend runs which operator on which device, and why another does not.

An implementation is a module with `DTYPES`, `forward` and, unless the operator knows no gradient, `backward` (the
operator's body on real tensors). The plain-PyTorch reference of an operator is one of them and runs everywhere.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator
from typing import Protocol, cast

import torch

from asose_fast import _native

BACKENDS = ("reference", "cpu", "cuda", "triton")
PREFERENCE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
_MODULES: dict[str, dict[str, str]] = {}
_forced: str | None = None


class Implementation(Protocol):
    """What a backend's module of an operator offers."""

    DTYPES: frozenset[torch.dtype]

    def forward(self, *args: object) -> object: ...

    def backward(self, *args: object) -> object: ...


def register(op: str, modules: dict[str, str]) -> None:
    """Names, for every backend of `op`, the module that implements it (imported on first use)."""
    _MODULES[op] = modules


def operators() -> tuple[str, ...]:
    """The names of all registered operators."""
    return tuple(_MODULES)


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Runs every operator of the process on one backend ("reference", "cpu", "cuda" or "triton") inside the block.

    Raises ValueError for an unknown name; an operator that the backend cannot run raises RuntimeError when called.
    """
    global _forced
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


@functools.cache
def _triton_missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available():
        return None
    return "torch sees no CUDA device (TRITON_INTERPRET=1 runs the kernels in Triton's interpreter)"


@functools.cache
def why_not(op: str, name: str, device_type: str, dtype: torch.dtype | None = None) -> str | None:
    """Why backend `name` cannot run `op` on a device type (and dtype), or None where it can."""
    if name == "reference":
        missing = None
    elif name == "triton":
        missing = _triton_missing()
        if not missing and device_type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            missing = "Triton's kernels take CUDA tensors"
    elif name != device_type:
        missing = f"its kernels take {name} tensors, not {device_type} ones"
    else:
        missing = _native.kernels_missing(name)
    if missing:
        return missing
    if name not in _MODULES[op]:
        return f"{op} has no {name} implementation"
    dtypes = _implementation(op, name).DTYPES
    if dtype is not None and dtype not in dtypes:
        return f"its kernels take {', '.join(sorted(map(str, dtypes)))}, not {dtype}"
    return None


def _implementation(op: str, name: str) -> Implementation:
    return cast(Implementation, importlib.import_module(_MODULES[op][name]))


@functools.cache
def _select(op: str, device_type: str, dtype: torch.dtype, forced: str | None) -> Implementation:
    if forced:
        reason = why_not(op, forced, device_type, dtype)
        if reason:
            raise RuntimeError(f"{op}: backend {forced!r} cannot run: {reason}")
        return _implementation(op, forced)
    reasons = []
    for name in PREFERENCE.get(device_type, ("reference",)):
        reason = why_not(op, name, device_type, dtype)
        if not reason:
            break
        reasons.append(f"{name}: {reason}")
    if name == "reference" and reasons:
        warnings.warn(
            f"{op} runs as plain PyTorch on {device_type}; {'; '.join(reasons)}", RuntimeWarning, stacklevel=2
        )
    return _implementation(op, name)


def select(op: str, tensor: torch.Tensor) -> Implementation:
    """The implementation of `op` for tensors like `tensor`: the forced backend, or the first that can run.

    Falling back to plain PyTorch warns once per operator, device type and dtype.
    """
    return _select(op, tensor.device.type, tensor.dtype, _forced)
