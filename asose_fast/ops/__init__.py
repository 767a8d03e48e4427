"""The fused operators. `backend(name)` forces one implementation; `python -m asose_fast.info` lists them."""

from asose_fast.ops import flops
from asose_fast.ops.arch_weights import ArchWeights, Boost, arch_weights
from asose_fast.ops.line_conv import line_conv
from asose_fast.ops.mixed_norm_sum import mixed_norm_sum
from asose_fast.ops.mixed_sum import mixed_sum
from asose_fast.ops.multi_depthwise import multi_depthwise
from asose_fast.ops.native.memory import release_memory
from asose_fast.ops.noise import gumbel_noise
from asose_fast.ops.pool_pair import pool_pair
from asose_fast.ops.registry import backend
from asose_fast.ops.separable import separable

__all__ = [
    "ArchWeights",
    "Boost",
    "arch_weights",
    "backend",
    "gumbel_noise",
    "line_conv",
    "mixed_norm_sum",
    "mixed_sum",
    "multi_depthwise",
    "pool_pair",
    "release_memory",
    "separable",
]

flops.register_in_time()
