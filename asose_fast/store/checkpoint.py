"""A checkpoint file is written atomically, checksummed and read with weights_only. Others are refused with a reason.

It contains "asose_fast checkpoint", newline, SHA-256 of all that follows in hexadecimal, newline, version, newline,
and what torch.save gave.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch

from asose_fast import files

MAGIC = b"asose_fast checkpoint\n"
VERSION = 2
_DIGEST_CHARACTERS = 64


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or written; the message names the file, the cause and what to do."""


class DamagedCheckpointError(CheckpointError):
    """A file cannot be read, or is not what was written: an older checkpoint may still be good."""


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces `path` by a file that was completely written and synced. A failure leaves the old file as it was.

    Raises CheckpointError, as for a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # what cannot be written to may not be cleared up either
            temporary.unlink(missing_ok=True)
        kept = "; the file that was there is unharmed" if os.path.exists(path) else ""
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}{kept}") from error


def write_json(path: Path, values: Any) -> None:
    """Writes `values` as indented JSON, as `write_atomically` does."""
    write_atomically(path, (json.dumps(values, indent=2) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Makes the new name of a file as durable as its content. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors, numbers, strings, lists, dicts). Raises CheckpointError."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, sealed(buffer.getvalue()))


def sealed(pickled: bytes, version: int = VERSION) -> bytes:
    """Returns the content of a file that holds what torch.save gave."""
    begin = b"%d\n" % version
    digest = hashlib.sha256(begin)
    digest.update(pickled)
    return b"".join((MAGIC, digest.hexdigest().encode(), b"\n", begin, pickled))


def load(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote, onto the CPU. Nothing is unpickled before the checksum is found right.

    Raises DamagedCheckpointError for an unreadable, truncated, changed or foreign file, and CheckpointError for a
    missing one or one of another version.
    """
    try:
        content = files.read(path, files.MOST_TENSORS)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint {path}") from error
    except OSError as error:
        raise DamagedCheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    version, _, pickled = _checked(path, content).partition(b"\n")
    if version != b"%d" % VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {version[:20].decode(errors='replace')}; this release of asose_fast reads "
            f"version {VERSION}"
        )
    try:
        state = torch.load(io.BytesIO(pickled), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for what it does not read
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _damaged(path, reason) from error
    if not isinstance(state, dict):
        raise _damaged(path, f"it holds a {type(state).__name__}")
    return state


def _checked(path: Path, content: bytes) -> bytes:
    """Returns what follows the checksum, once that is found right."""
    start = len(MAGIC) + _DIGEST_CHARACTERS + 1
    if not content.startswith(MAGIC):
        raise _damaged(path, "it does not begin as one of this release does")
    digest, rest = content[len(MAGIC) : start], content[start:]
    if digest != hashlib.sha256(rest).hexdigest().encode() + b"\n":
        raise _damaged(path, f"the checksum of its {len(content):,} bytes is wrong")
    return rest


def _damaged(path: Path, reason: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(f"{path} is damaged or not a checkpoint of asose_fast ({reason})")
