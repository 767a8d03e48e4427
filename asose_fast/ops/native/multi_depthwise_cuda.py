"""`multi_depthwise` on CUDA: the launchers of all compiled kernels, and one more dtype."""

import torch

from asose_fast.ops.native.multi_depthwise import DTYPES as _CPU_DTYPES
from asose_fast.ops.native.multi_depthwise import backward, forward

DTYPES = _CPU_DTYPES | {torch.float16}

__all__ = ["DTYPES", "backward", "forward"]
