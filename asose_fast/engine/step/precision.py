"""In which precision a step computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """For the forward pass: as it is written, or with bfloat16 wherever autocast takes it to be safe.

    Parameters, their gradients, optimizers and running statistics stay in float32; bfloat16 has its range, so that no
    loss is scaled. Outputs are to be made float32 again before softmax and loss.
    """
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
