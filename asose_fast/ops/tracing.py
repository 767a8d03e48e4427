"""Whether a graph of PyTorch's own operators is being recorded, for which nothing else may run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx._symbolic_trace import is_fx_symbolic_tracing

_PROXY = torch._C._TorchDispatchModeKey.PROXY


def tracing() -> bool:
    """Whether `torch.jit.trace` (TensorBoard's graphs and the older ONNX exporter among its users), `torch.fx` or
    `make_fx` records. torch.compile and torch.export, which know the registered operators, do not count."""
    if torch.compiler.is_compiling():
        return False
    if torch._C._get_tracing_state() is not None or is_fx_symbolic_tracing():
        return True
    return bool(torch._C._len_torch_dispatch_stack()) and torch._C._get_dispatch_mode(_PROXY) is not None


def recorded_sum(xs: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """sum_k w_k x_k for such a graph, without a look at shapes and dtypes, which what stands for a tensor may not have.

    The infinities and NaNs of an x_k whose weight is 0 stay out.
    """
    first, *rest = (torch.where(w == 0, x.nan_to_num(0.0, 0.0, 0.0), x) * w for x, w in zip(xs, weights, strict=True))
    return sum(rest, first)
