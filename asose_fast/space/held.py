"""The tensors that modules hold, without their names, which take PyTorch longer to put together than they are used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn


def held(modules: Iterable[nn.Module], kind: Literal["_parameters", "_buffers"]) -> list[Tensor]:
    """Returns the parameters or buffers of the modules themselves, each once, in the order of the modules."""
    found = {id(t): t for module in modules for t in getattr(module, kind).values() if t is not None}
    return list(found.values())
