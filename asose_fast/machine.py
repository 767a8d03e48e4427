"""A machine may refuse at any time what a run needs: memory, a disk, a helper process."""

from __future__ import annotations

import re

import torch

from asose_fast.data.errors import DataError
from asose_fast.store.checkpoint import CheckpointError

ALLOCATOR = "can't allocate memory"
"""The allocator of torch on the CPU says this, in a RuntimeError."""
WORKER = re.compile(r"DataLoader (worker|timed out)|Pin memory thread exited")
"""A torch DataLoader says this of its processes, in a RuntimeError that comes at any line of the main thread."""


def refused(error: BaseException) -> str | None:
    """Says in one line what was refused, or gives None for other errors. A run can go on once that is mended."""
    said = (str(error).splitlines() or [""])[0].strip()
    if isinstance(error, (OSError, CheckpointError, DataError)):
        return str(error)
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or ALLOCATOR in said:
        return "memory is exhausted" + (f" ({said})" if said else "")
    if isinstance(error, RuntimeError) and WORKER.match(said):
        said = said.rstrip(".").replace("DataLoader ", "", 1)
        return f"a process of --workers has failed ({said}): is memory, or /dev/shm, too small for so many workers?"
    return None
