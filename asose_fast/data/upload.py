"""The host does not wait for these copies to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns `tensor` on `device`. It goes to a GPU through pinned memory, since a copy from pageable memory would be
    synchronous."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
