"""`stage` in Triton: its weights in a launch or two, and `separable`."""

from __future__ import annotations

import functools

from asose_fast.ops.reference import stage as parts
from asose_fast.ops.triton import stage_weights

DTYPES = parts.DTYPES

forward = functools.partial(parts.forward, weights=stage_weights)
backward = functools.partial(parts.backward, weights=stage_weights)
