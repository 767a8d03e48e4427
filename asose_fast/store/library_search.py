"""The folder of an `asose_fast.search` holds no network that a command could take: the function returns it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def wrote(state: dict[str, Any]) -> bool:
    """Returns whether a checkpoint is of `asose_fast.search`: it names the mixed operations of the model."""
    return "mixed" in state


def refusal(folder: Path) -> str:
    """Returns why no command takes the folder, and what to do instead."""
    return (
        f"{folder} is of asose_fast.search, whose result is the `network` that it returned: save that with torch.save. "
        "The same call goes on in this folder, and returns its result once more when it has ended"
    )
