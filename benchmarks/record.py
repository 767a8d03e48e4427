"""What was measured, as JSON lines: a line a measurement, with the processor, the versions and the commit.

A measurement is of one `row` and of one kind: a ratio (`form`, `median`, `low`, `high`, `rounds`), a `seconds`, a
`bytes`, or a `text`. Lines are appended, so that a file keeps what was measured before.
"""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import asose_fast
from asose_fast import _native
from asose_fast.engine.processes import cores
from benchmarks.measure import Duration, Ratio, Size

ROOT = Path(__file__).resolve().parent.parent
Row = dict[str, Any]


def row_of(name: str, value: object) -> Row:
    """A line of the report. The name of a ratio is "work / form": `form` is what ours is compared with."""
    match value:
        case Ratio():
            work, form = name.rsplit(" / ", 1)
            return {"row": work, "form": form, **value._asdict()}
        case Duration():
            return {"row": name, "seconds": value.seconds}
        case Size():
            return {"row": name, "bytes": value.bytes}
    return {"row": name, "text": str(value)}


def environment() -> dict[str, Any]:
    """Processor, versions and commit."""
    missing = _native.kernels_missing("cpu")
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "instruction_set": None if missing else _native.kernels("cpu").isa(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "asose_fast": asose_fast.__version__,
        "commit": commit(),
    }


def cpu_model() -> str:
    """The processor as it calls itself."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of this checkout, with "+" where tracked files were changed since; None outside of git."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def append(path: Path, rows: list[Row]) -> None:
    """Appends rows to a file, with the environment of this process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    here = environment()
    with path.open("a") as file:
        file.writelines(json.dumps(here | row) + "\n" for row in rows)


def read(path: Path) -> list[Row]:
    """The measurements of a file, the oldest first; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
