"""`mixed_sum` on CUDA: the launchers of all compiled kernels, and one more dtype."""

import torch

from asose_fast.ops.native.mixed_sum import DTYPES as _CPU_DTYPES
from asose_fast.ops.native.mixed_sum import backward, forward

DTYPES = _CPU_DTYPES | {torch.float16}

__all__ = ["DTYPES", "backward", "forward"]
