"""What the tests of all operators call each of them with: one file an operator, found here by being here.

A file may have
- `raw_calls(images)`: right arguments for its registered operators, by their names, and by the arguments' names;
- `DIFFERENTIABLE`: functions that make a function of float64 tensors, such tensors, and the modules whose parameters
  the function depends on too, by the names of tests.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asose_fast.ops.dtypes import accumulation_dtype

Case = tuple[Callable[..., object], list[Tensor], nn.ModuleList]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def table(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Finite values that are not all alike."""
    return torch.arange(1, torch.Size(shape).numel() + 1).reshape(shape).remainder(5).add(1).to(dtype)


class Images(NamedTuple):
    """The dtype and shape of the images that registered operators are called with."""

    dtype: torch.dtype = torch.float32
    shape: tuple[int, int, int, int] = (2, 3, 6, 5)

    @property
    def channels(self) -> int:
        return self.shape[1]

    @property
    def accumulation(self) -> torch.dtype:
        return accumulation_dtype(self.dtype)

    @property
    def strided(self) -> tuple[int, int, int, int]:
        """The shape of an output of stride 2."""
        images, channels, height, width = self.shape
        return images, channels, (height + 1) // 2, (width + 1) // 2

    def table(self, *shape: int) -> Tensor:
        """Such values in the dtype of the images, in their shape unless another is given."""
        return table(*(shape or self.shape), dtype=self.dtype)

    def accumulated(self, *shape: int) -> Tensor:
        """Such values in the accumulation type of the images."""
        return table(*shape, dtype=self.accumulation)


def modules() -> list[ModuleType]:
    """The files of this folder."""
    return [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
