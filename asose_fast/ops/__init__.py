"""The fused operators, a line each: `as` exports a name.

`backend(name)` forces one implementation; `asose-fast info` lists them.
"""

from asose_fast.ops import flops
from asose_fast.ops import stage as stage
from asose_fast.ops.arch_sample import ArchWeights as ArchWeights
from asose_fast.ops.arch_sample import Boost as Boost
from asose_fast.ops.arch_weights import arch_weights as arch_weights
from asose_fast.ops.avg_pool_2x2 import avg_pool_2x2 as avg_pool_2x2
from asose_fast.ops.conv_norm import conv_norm as conv_norm
from asose_fast.ops.cross_entropy import cross_entropy as cross_entropy
from asose_fast.ops.dense_conv import dense_conv as dense_conv
from asose_fast.ops.line_conv import line_conv as line_conv
from asose_fast.ops.linear import linear as linear
from asose_fast.ops.mixed_norm_sum import mixed_norm_sum as mixed_norm_sum
from asose_fast.ops.mixed_sum import mixed_sum as mixed_sum
from asose_fast.ops.multi_depthwise import multi_depthwise as multi_depthwise
from asose_fast.ops.native.memory import release_memory as release_memory
from asose_fast.ops.noise import gumbel_noise as gumbel_noise
from asose_fast.ops.norm_lerp import norm_lerp as norm_lerp
from asose_fast.ops.norm_pool import norm_pool as norm_pool
from asose_fast.ops.norm_relu_mean import norm_relu_mean as norm_relu_mean
from asose_fast.ops.pointwise import pointwise as pointwise
from asose_fast.ops.pool_pair import pool_3x3 as pool_3x3
from asose_fast.ops.pool_pair import pool_pair as pool_pair
from asose_fast.ops.registry import backend as backend
from asose_fast.ops.separable import separable as separable
from asose_fast.ops.separable_norm import separable_norm as separable_norm
from asose_fast.ops.sgd import Clip as Clip
from asose_fast.ops.sgd import sgd as sgd
from asose_fast.ops.total_norm import total_norm as total_norm

flops.register_in_time()
