"""The dtypes that the operators compute in."""

from __future__ import annotations

import torch

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""The dtypes that an input may have."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of weights, parameters and sums for inputs of `dtype`: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
