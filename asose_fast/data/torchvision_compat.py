"""This module imports torchvision, also beside a torch that its compiled operators were not built for.

torchvision from PyPI is built against CUDA torch. Beside a CPU torch its operators do not load, and its import dies
because it describes two of them (`torchvision::nms` does not exist). The search needs none of them, only the data
sets, so their schemas are declared and the import is repeated.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def import_torchvision() -> ModuleType:
    """Returns the package torchvision. Where its operators load, nothing is declared and it is imported as it is."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left behind
    _declare_operators()
    return importlib.import_module("torchvision")


@functools.cache  # holds the library: the declarations end with it
def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + schema)
    return library
