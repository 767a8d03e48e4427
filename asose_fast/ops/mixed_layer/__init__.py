"""A whole mixed operation as one autograd node: separable branches, pools and the normalised sum (docs/kernels.md).

`layer.py` has the public function, `checks.py` what it asks of its arguments and `plan.py` what it computes. `node.py`
is the autograd node, of `forward.py` and `backward.py`; `reference.py` is the same in plain PyTorch.
"""

from asose_fast.ops.mixed_layer.layer import mixed_layer
from asose_fast.ops.mixed_layer.operators import NAMES as OPERATORS
from asose_fast.ops.mixed_layer.plan import Stage

__all__ = ["OPERATORS", "Stage", "mixed_layer"]
