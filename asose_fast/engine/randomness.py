"""The global random states are part of a checkpoint."""

from __future__ import annotations

from typing import Any

import torch


def state_dict(device: torch.device) -> dict[str, Any]:
    """Returns the states of the CPU and, if the run is on a GPU, of `device`."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"torch_rng": torch.get_rng_state(), "cuda_rng": cuda}


def restore(state: dict[str, Any], device: torch.device) -> None:
    """Inverts `state_dict`. A checkpoint that was written without a GPU leaves that of a GPU as it is."""
    torch.set_rng_state(state["torch_rng"])
    if device.type == "cuda" and state["cuda_rng"] is not None:
        torch.cuda.set_rng_state(state["cuda_rng"], device)
