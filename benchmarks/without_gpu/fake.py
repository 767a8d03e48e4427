"""Tensors on a GPU that is not there: on the meta device, they have shapes and no values."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch

from asose_fast.ops import library, mixed_layer, registry
from asose_fast.ops.registry import Implementation
from asose_fast.ops.triton import tiles
from asose_fast.space.stacked import Branches


@contextlib.contextmanager
def fake_gpu() -> Iterator[None]:
    """A block in which new tensors have no values, and operators are the bodies that a GPU without CUDA kernels runs.

    Whatever reads a value raises, as that would make the host wait.
    """

    def triton(op: str, *_: Any) -> Implementation:
        modules = registry._MODULES[op]
        return importlib.import_module(modules.get("triton", modules["reference"]))

    def has_kernels(op: str, *_: Any) -> bool:
        return "triton" in registry._MODULES[op]

    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(registry, "select", triton))
        stack.enter_context(patch.object(registry, "has_kernels", has_kernels))
        # What this says of tensors on a GPU.
        stack.enter_context(patch.object(Branches, "worthwhile", lambda b, *_: b.folded > 1 or bool(b.separable)))
        # The bodies themselves, not what stands in for them.
        for module in (library, mixed_layer.forward, mixed_layer.node):
            stack.enter_context(patch.object(module, "observed", lambda _: False))
        stack.enter_context(patch.object(tiles, "address", lambda _: 1))  # meta tensors have none
        stack.enter_context(torch.device("meta"))
        yield
