"""Checkpoints: written atomically, read with weights_only, and refused with a reason when they are not ours."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

FORMAT = "asose_fast checkpoint"
VERSION = 1


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or written; the message names the file, the cause and what to do."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces `path` by a file that was completely written and synced. A failure leaves the old file as it was.

    Raises CheckpointError, as for a full disk.
    """
    temporary: str | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        kept = "; the file that was there is unharmed" if path.exists() else ""
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}{kept}") from error


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors, numbers, strings, lists, dicts). Raises CheckpointError."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **state}, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote, onto the CPU.

    Raises CheckpointError for a missing, truncated or foreign file, or one of another version.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{path} is damaged or not a checkpoint of asose_fast ({reason})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of asose_fast")
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {state.get('version')}; this release of asose_fast reads version {VERSION}"
        )
    return state
