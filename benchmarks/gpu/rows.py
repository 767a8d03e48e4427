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
    """The rows of a file, to which a process adds its own; none is lost that was written once.

    What is being measured is named in a file beside it, `.now`: there a process learns what the last one ended in.
    """

    def __init__(
        self, path: Path, hardware: dict[str, Any], own: list[dict[str, Any]], add: bool, stage: str = ""
    ) -> None:
        """`own`: the list in which the process collects its rows. `add`: behind those of the file. `stage`: what they
        are measured in."""
        self._path, self._hardware, self._own, self._stage = path, hardware, own, stage
        self._now = path.with_name(path.name + ".now")
        old = json.loads(path.read_text()) if add and path.exists() else {}
        self._before: list[dict[str, Any]] = old.get("rows", [])
        self._ended: list[dict[str, str]] = old.get("ended", [])
        if add and self._now.exists():
            self._ended.append(json.loads(self._now.read_text()))
            self.keep()
        self._now.unlink(missing_ok=True)

        here = [row for row in self._before if stage and row.get("stage") == stage]
        self.measured = {(row["section"], row["name"]) for row in here}
        """(section, name) of the rows that an earlier process of the stage has measured."""
        self.ended = {(e["section"], e["name"], e["variant"]): e["why"] for e in self._ended if e["stage"] == stage}
        """(section, name, variant) in which an earlier process of the stage ended, and why."""

    def bandwidth(self) -> float | None:
        """Bytes per second of the large copy that the file tells of."""
        for row in self._before:
            copy = row.get("seconds", {}).get("copy")
            if isinstance(copy, dict):
                return row["bytes"] / copy["median"]
        return None

    def now(self, section: str, name: str, variant: str, why: str = "failed: the process ended in it") -> None:
        """Takes note of what is begun, in case that the process ends in it."""
        here = {"stage": self._stage, "section": section, "name": name, "variant": variant, "why": why}
        _write(self._now, json.dumps(here))

    def done(self) -> None:
        """What was begun is over."""
        self._now.unlink(missing_ok=True)

    def keep(self) -> None:
        """Writes the file anew."""
        own = [{"stage": self._stage, **row} for row in self._own]
        figures = {"hardware": self._hardware, "rows": [*self._before, *own], "ended": self._ended}
        _write(self._path, json.dumps(figures, indent=2, default=str))


def _write(path: Path, text: str) -> None:
    """A process that is killed leaves the old file or the new one."""
    new = path.with_name(path.name + ".new")
    new.write_text(text + "\n")
    new.replace(path)


def lines(figures: dict[str, Any]) -> list[str]:
    """The rows of a file with where they were measured; `stages` says how the session's parts ended."""
    hardware = figures.get("hardware") or {}
    here = {name: hardware.get(name) for name in KEPT}
    here |= {"versions": hardware.get("info", {}).get("versions"), "stages": figures.get("stages")}
    return [json.dumps(here | row) for row in figures.get("rows", [])]


if __name__ == "__main__":
    print("\n".join(lines(json.loads(Path(sys.argv[1]).read_text()))))
