"""`--format pt2` writes an ExportedProgram, for torch.export.load and everything that takes one."""

from __future__ import annotations

import io
import json
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from asose_fast.store.networks import METADATA, PROGRAM

SUFFIX = PROGRAM
NEEDS = ()


def encode(plain: nn.Module, images: Tensor, metadata: dict[str, Any]) -> dict[str, bytes]:
    """Returns the content of the file, by the end of its name. `metadata` is in its extra file `metadata.json`."""
    buffer = io.BytesIO()
    torch.export.save(program(plain, images), buffer, extra_files={METADATA: json.dumps(metadata)})
    return {SUFFIX: buffer.getvalue()}


def decode(files: dict[str, bytes]) -> nn.Module:
    """Returns the program in the file, as a module."""
    return torch.export.load(io.BytesIO(files[SUFFIX])).module()


def program(plain: nn.Module, images: Tensor) -> ExportedProgram:
    """Returns a program for any batch size. Images may have any size whose last map has several pixels, as that of
    `images`."""
    # torch.export tells sizes of 1 from others. Only AUTO lets it keep what this says about the last map as a guard.
    dynamic = {0: Dim("batch"), 2: Dim.AUTO, 3: Dim.AUTO}
    exported = torch.export.export(plain, (images,), dynamic_shapes=(dynamic,))
    for node in exported.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return exported
