"""From the name of a device to the device."""

from __future__ import annotations

import torch

from asose_fast.engine.processes import ALONE, Processes


def device_named(name: str, processes: Processes = ALONE) -> torch.device:
    """The device of a process; of several, each takes the GPU of its rank on its machine.

    Raises ValueError for one that cannot be used.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and processes.count > 1:
            if device.index is not None:
                raise ValueError(f"device {name!r} is one GPU for {processes.count} processes: give --device cuda")
            device = torch.device("cuda", processes.local_rank)
            torch.cuda.set_device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device
