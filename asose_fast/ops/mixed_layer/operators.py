"""The operators that a mixed layer is made of, with and without their checks."""

from __future__ import annotations

from typing import NamedTuple

from asose_fast.ops.dense_conv import dense_conv_bwd, dense_conv_fwd
from asose_fast.ops.library import Call
from asose_fast.ops.mixed_norm_sum import mixed_norm_sum_bwd, mixed_norm_sum_fwd
from asose_fast.ops.mixed_sum import mixed_sum_fwd
from asose_fast.ops.norm_tables import norm_tables_fwd
from asose_fast.ops.pool_pair import pool_pair_bwd, pool_pair_fwd
from asose_fast.ops.stage import stage_bwd, stage_fwd

NAMES = ("separable", "pool_pair", "batch_statistics", "mixed_norm_sum")
"""What a mixed layer needs kernels of, to be faster than its modules."""


class Operators(NamedTuple):
    """Functions of the arguments of the registered operators of these names."""

    stage_fwd: Call
    stage_bwd: Call
    pool_pair_fwd: Call
    pool_pair_bwd: Call
    dense_conv_fwd: Call
    dense_conv_bwd: Call
    norm_tables_fwd: Call
    mixed_norm_sum_fwd: Call
    mixed_norm_sum_bwd: Call
    mixed_sum_fwd: Call


_OPERATORS = (
    stage_fwd,
    stage_bwd,
    pool_pair_fwd,
    pool_pair_bwd,
    dense_conv_fwd,
    dense_conv_bwd,
    norm_tables_fwd,
    mixed_norm_sum_fwd,
    mixed_norm_sum_bwd,
    mixed_sum_fwd,
)
CHECKED = Operators(*_OPERATORS)
UNCHECKED = Operators(*(operator.body for operator in _OPERATORS))
"""The bodies alone, for tensors that have been looked at together and that nobody observes."""
