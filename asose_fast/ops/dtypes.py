"""The dtypes that the operators compute in."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import attrgetter

import torch
from torch import Tensor

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""The dtypes that an input may have."""
WIDE = frozenset({torch.float32, torch.float64})
"""The dtypes of weights, parameters and sums."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of weights, parameters and sums for inputs of `dtype`: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widest(tensors: Iterable[Tensor]) -> torch.dtype:
    """The dtype that PyTorch gives what is made of all of these."""
    found: torch.dtype = reduce(torch.promote_types, set(map(attrgetter("dtype"), tensors)))
    return found
