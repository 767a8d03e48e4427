"""The torch.library namespace `asose_fast`: schema, body and fake of every operator.

The registered operators are private: they know no autograd and silently give no gradient. The public functions of
`asose_fast.ops` wrap them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("asose_fast", "DEF")


def define(schema: str, body: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Registers an operator that runs `body` on CPU and CUDA tensors and `fake` when only shapes are wanted."""
    name = _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(name, body, "CPU")
    _library.impl(name, _on_their_device(body), "CUDA")
    torch.library.register_fake(f"asose_fast::{name}", fake, lib=_library)


def _on_their_device(body: Callable[..., Any]) -> Callable[..., Any]:
    """Launches go to the current device, which need not be that of the tensors."""

    @functools.wraps(body)
    def guarded(first: torch.Tensor | list[torch.Tensor], *args: object) -> Any:
        tensor = first[0] if isinstance(first, list) else first
        with torch.cuda.device(tensor.device):
            return body(first, *args)

    return guarded
