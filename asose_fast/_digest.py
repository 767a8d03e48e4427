"""Digest of the kernel sources: it ties a source checkout to the kernels that were built from it."""

from __future__ import annotations

import hashlib
from pathlib import Path


def source_digest(csrc: Path, pattern: str = "*") -> str:
    """SHA-256 over the names and contents of every file below `csrc` whose name fits `pattern`, in name order."""
    digest = hashlib.sha256()
    for path in sorted(p for p in csrc.rglob(pattern) if p.is_file()):
        digest.update(path.relative_to(csrc).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
