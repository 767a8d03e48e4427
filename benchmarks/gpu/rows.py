"""The file that a session's rows are added to: `python -m benchmarks.gpu.rows gpu.json` prints them as lines of JSON.

Each has GPU, versions and commit, as benchmarks/results/gpu.jsonl keeps them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

KEPT = ("gpu", "driver", "cuda", "cudnn", "commit", "changes")
"""What a line says of where it was measured."""


class Rows:
    """The rows of a file, to which a process adds its own; none is lost that was written once."""

    def __init__(self, path: Path, hardware: dict[str, Any], own: list[dict[str, Any]], add: bool) -> None:
        """`own`: the list in which the process collects its rows. `add`: behind those of the file."""
        self._path, self._hardware, self._own = path, hardware, own
        self._before: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if add and path.exists() else []

    def bandwidth(self) -> float | None:
        """Bytes per second of the large copy that the file tells of."""
        for row in self._before:
            copy = row.get("seconds", {}).get("copy")
            if isinstance(copy, dict):
                return row["bytes"] / copy["median"]
        return None

    def keep(self) -> None:
        """Writes the file anew: a process that is killed leaves the old one or the new one."""
        figures = {"hardware": self._hardware, "rows": [*self._before, *self._own]}
        new = self._path.with_suffix(".new")
        new.write_text(json.dumps(figures, indent=2, default=str) + "\n")
        new.replace(self._path)


def lines(figures: dict[str, Any]) -> list[str]:
    """The rows of a file with where they were measured; `stages` says how the session's parts ended."""
    hardware = figures.get("hardware") or {}
    here = {name: hardware.get(name) for name in KEPT}
    here |= {"versions": hardware.get("info", {}).get("versions"), "stages": figures.get("stages")}
    return [json.dumps(here | row) for row in figures.get("rows", [])]


if __name__ == "__main__":
    print("\n".join(lines(json.loads(Path(sys.argv[1]).read_text()))))
