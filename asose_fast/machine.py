"""What the machine a run is on may refuse it at any time: memory, a disk, a helper process."""

from __future__ import annotations

import re

import torch

from asose_fast.data.errors import DataError
from asose_fast.store.checkpoint import CheckpointError

ALLOCATOR = "can't allocate memory"
"""What the allocator of torch on the CPU says, in a RuntimeError."""
WORKER = re.compile(r"DataLoader (worker|timed out)|Pin memory thread exited")
"""What a torch DataLoader says of its processes, in a RuntimeError that comes at any line of the main thread."""


def refused(error: BaseException) -> str | None:
    """What was refused, in one line: a run could go on where it ended, once that is mended. None for other errors."""
    said = (str(error).splitlines() or [""])[0].strip()
    if isinstance(error, (OSError, CheckpointError, DataError)):
        return str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or ALLOCATOR in said:
        return "memory is exhausted" + (f" ({said})" if said else "")
    if isinstance(error, RuntimeError) and WORKER.match(said):
        said = said.rstrip(".").replace("DataLoader ", "", 1)
        return f"a process of --workers has failed ({said}): is memory, or /dev/shm, too small for so many workers?"
    return None
