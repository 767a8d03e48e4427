"""Loads the compiled kernels, and says why where they cannot be had."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType

import torch  # loaded before the kernels, so that they share its OpenMP runtime

from asose_fast._digest import source_digest

_CSRC = Path(__file__).resolve().parent.parent / "csrc"


class KernelsMissing(ImportError):
    """The compiled kernels of a device cannot be used; the message says why and what to do."""


@functools.cache
def _load(name: str) -> ModuleType | KernelsMissing:
    try:
        module = importlib.import_module(f"asose_fast_kernels.{name}")
    except ImportError as error:
        return KernelsMissing(
            f"the compiled {name} kernels do not load ({error}): run `pip install .` in the source folder"
        )
    if _CSRC.is_dir() and module.source_digest != source_digest(_CSRC):
        return KernelsMissing(
            f"the installed {name} kernels were built from other sources than csrc/: run `pip install .`"
        )
    if name == "cuda" and not torch.cuda.is_available():
        return KernelsMissing("the cuda kernels are built, but torch sees no CUDA device")
    try:
        module.isa() if name == "cpu" else module.check_device()
    except RuntimeError as error:
        return KernelsMissing(f"the {name} kernels are built, but cannot run here: {error}")
    return module


def kernels(name: str) -> ModuleType:
    """The module `asose_fast_kernels.<name>` ("cpu" or "cuda"). Raises KernelsMissing."""
    loaded = _load(name)
    if isinstance(loaded, KernelsMissing):
        raise loaded
    return loaded


def kernels_missing(name: str) -> str | None:
    """Why `kernels(name)` would raise, or None where it would not."""
    loaded = _load(name)
    return str(loaded) if isinstance(loaded, KernelsMissing) else None
