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
from typing import Any, Protocol, cast

import torch

from asose_fast import _native

BACKENDS = ("reference", "cpu", "cuda", "triton")
PREFERENCE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
_MODULES: dict[str, dict[str, str]] = {}
_SMALL: set[str] = set()
_forced: str | None = None


class Implementation(Protocol):
    """What a backend's module of an operator offers."""

    __name__: str
    DTYPES: frozenset[torch.dtype]

    def forward(self, *args: object) -> Any: ...

    def backward(self, *args: object) -> Any: ...


def register(op: str, modules: dict[str, str], small: bool = False) -> None:
    """Names, for every backend of `op`, the module that implements it (imported on first use).

    A `small` operator is arithmetic on tables and weights between the kernels, or what PyTorch does nearly as well. A
    backend need not have it: where one without it is forced, plain PyTorch runs it.
    """
    _MODULES[op] = modules
    if small:
        _SMALL.add(op)


def operators() -> tuple[str, ...]:
    """The names of all registered operators."""
    return tuple(_MODULES)


def backends(op: str) -> tuple[str, ...]:
    """The backends that implement `op`, whether or not they can run here."""
    return tuple(name for name in BACKENDS if name in _MODULES[op])


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


def forced() -> str | None:
    """The backend that every operator runs on, inside the block of `backend`."""
    return _forced


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
    if name not in _MODULES[op]:
        return f"{op} has no {name} implementation"
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
    dtypes = _implementation(op, name).DTYPES
    if dtype is not None and dtype not in dtypes:
        return f"its kernels take {', '.join(sorted(map(str, dtypes)))}, not {dtype}"
    return None


def _implementation(op: str, name: str) -> Implementation:
    return cast(Implementation, importlib.import_module(_MODULES[op][name]))


@functools.cache
def _usable(op: str, device_type: str, dtype: torch.dtype, forced: str | None) -> tuple[Implementation, ...]:
    """What can run, by preference; plain PyTorch is the last unless another backend is forced."""
    if forced and op in _SMALL and forced not in _MODULES[op]:
        forced = "reference"
    if forced:
        reason = why_not(op, forced, device_type, dtype)
        if reason:
            raise RuntimeError(f"{op}: backend {forced!r} cannot run: {reason}")
        return (_implementation(op, forced),)
    names, reasons = _preferred(op, device_type, dtype)
    if names == ["reference"] and reasons and set(PREFERENCE[device_type][:-1]).intersection(_MODULES[op]):
        warnings.warn(
            f"{op} runs as plain PyTorch on {device_type}; {'; '.join(reasons)}", RuntimeWarning, stacklevel=3
        )
    return tuple(_implementation(op, name) for name in names)


def _preferred(op: str, device_type: str, dtype: torch.dtype | None) -> tuple[list[str], list[str]]:
    """The backends that can run, by preference, and why others of the device cannot."""
    order = PREFERENCE.get(device_type, ("reference",))
    reasons = {name: why_not(op, name, device_type, dtype) for name in order}
    return [name for name in order if not reasons[name]], [f"{name}: {why}" for name, why in reasons.items() if why]


def select(op: str, tensor: torch.Tensor, *details: object) -> Implementation:
    """The implementation of `op` for tensors like `tensor`: the forced backend, or the first that can run and is fit.

    A backend's module may declare `unfit(shape, dtype, *details)`, which says why another serves such a call better, or
    gives None. It is asked for the shape and dtype of `tensor` and what else the operator passes as `details`; nothing
    is measured, so that a call is served by the same backend every time. Falling back to plain PyTorch because nothing
    else can run warns once per operator, device type and dtype.
    """
    usable = _usable(op, tensor.device.type, tensor.dtype, _forced)
    for implementation in usable[:-1]:
        unfit = getattr(implementation, "unfit", None)
        if unfit is None or unfit(tensor.shape, tensor.dtype, *details) is None:
            return implementation
    return usable[-1]


def serves(op: str, name: str, tensor: torch.Tensor, *details: object) -> bool:
    """Whether `select` gives backend `name` for tensors like `tensor`."""
    return _forced == name if _forced else select(op, tensor, *details).__name__ == _MODULES[op].get(name)


def why(op: str, tensor: torch.Tensor, *details: object) -> str:
    """Which backend `select` gives for tensors like `tensor`, and why: "name: reason; reason"."""
    if _forced:
        return f"{_forced}: forced by ops.backend"
    names, reasons = _preferred(op, tensor.device.type, tensor.dtype)
    for name in names[:-1]:
        unfit = getattr(_implementation(op, name), "unfit", None)
        reason = unfit(tensor.shape, tensor.dtype, *details) if unfit else None
        if reason is None:
            return f"{name}: {'; '.join(reasons) or f'the first choice on {tensor.device.type}'}"
        reasons.append(f"{name}: {reason}")
    return f"{names[-1]}: {'; '.join(reasons) or f'the first choice on {tensor.device.type}'}"


def rule(op: str, name: str) -> str | None:
    """In a sentence, when a backend that can run leaves calls to others; None where it never does."""
    if name not in _MODULES[op] or (name == "triton" and importlib.util.find_spec("triton") is None):
        return None
    unfit = getattr(_implementation(op, name), "unfit", None)
    return " ".join(unfit.__doc__.split()) if unfit else None


def has_kernels(op: str, device_type: str, dtype: torch.dtype) -> bool:
    """Whether something else than plain PyTorch runs `op` on a device type."""
    return any(
        name != "reference" and not why_not(op, name, device_type, dtype) for name in PREFERENCE.get(device_type, ())
    )
