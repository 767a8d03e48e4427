"""Small tensors that the host wants to know, fetched without making it wait for what the device has still to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """The values of a tensor, on their way to the host from the moment this is made.

    From a GPU they go to pinned memory, behind them an event: `tolist` waits for what was queued before this was made,
    and not for what came after. `tensor` must not be written to afterwards where it is on the CPU.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._values, self._event = tensor.detach(), None
        if tensor.is_cuda:
            self._values = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._values.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.current_stream(tensor.device).record_event()

    def arrived(self) -> bool:
        """Whether `tolist` would not wait."""
        return self._event is None or self._event.query()

    def tolist(self) -> Any:
        """The values."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.tolist()
