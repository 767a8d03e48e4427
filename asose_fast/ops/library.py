"""The torch.library namespace `asose_fast`: schema, body and fake of every operator.

The registered operators are private: they know no autograd and silently give no gradient. The public functions of
`asose_fast.ops` wrap them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_library = torch.library.Library("asose_fast", "DEF")


def define(schema: str, body: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Registers an operator that runs `body` on CPU and CUDA tensors and `fake` when only shapes are wanted."""
    name = _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        _library.impl(name, body, key)
    torch.library.register_fake(f"asose_fast::{name}", fake, lib=_library)
