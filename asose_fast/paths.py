"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def given_path(written: str | Path) -> Path:
    """The path, with a leading `~` or `~name` for a home folder; where there is no such home it stays as it is."""
    return Path(os.path.expanduser(written))
