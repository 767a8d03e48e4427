"""This module reads paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path


def given_path(written: str | Path) -> Path:
    """Returns the path with its leading `~` or `~name` replaced by the home folder; without such a home it stays."""
    return Path(os.path.expanduser(written))
