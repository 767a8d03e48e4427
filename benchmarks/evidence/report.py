"""What the commands of this folder have in common: settings from words, a table on the screen, a JSON file."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import yaml


class Table:
    """A table in Markdown, printed row by row as it grows."""

    def __init__(self, *columns: str) -> None:
        self._print(*columns)
        self._print(*("---" for _ in columns))

    def row(self, *values: object) -> None:
        self._print(*map(str, values))

    @staticmethod
    def _print(*cells: str) -> None:
        print(f"| {' | '.join(cells)} |", flush=True)


def changes(words: list[str]) -> dict[str, Any]:
    """KEY=VALUE words as settings, the values read as YAML."""
    pairs = [word.partition("=") for word in words]
    return {key: yaml.safe_load(value) for key, _, value in pairs}


def summary(options: argparse.Namespace) -> dict[str, Any]:
    """What was asked for, without paths, and where it ran."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    asked = {key: value for key, value in vars(options).items() if not _has_paths(value)}
    if "data" in asked:
        asked["data"] = str(asked["data"]).partition(":")[0]
    machine = f"{_processor()}, {torch.get_num_threads()} thread"
    return {"options": asked, "commit": commit, "torch": torch.__version__, "machine": machine}


def _has_paths(value: object) -> bool:
    return isinstance(value, Path) or (isinstance(value, list) and any(map(_has_paths, value)))


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(path: Path | None, values: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1) + "\n")
