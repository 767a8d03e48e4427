"""Says what is available here, and why the rest is not."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from rich.table import Table

from asose_fast import _native
from asose_fast.command import Parser, command
from asose_fast.ops import registry
from asose_fast.terminal import make_console
from asose_fast.version import __version__

_PACKAGES = ("torch", "torchvision", "triton", "numpy")


def collect() -> dict[str, Any]:
    """Versions, processor, threads, devices; for every operator which backend runs where, why others do not, and by
    which rule a backend leaves calls to another."""
    missing = _native.kernels_missing("cpu")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return {
        "versions": {"asose_fast": __version__, "python": platform.python_version(), **_versions()},
        "instruction_set": None if missing else _native.kernels("cpu").isa(),
        "threads": torch.get_num_threads(),
        "cuda_devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "used": {op: {device: _used(op, device) for device in devices} for op in registry.operators()},
        "missing": {
            op: {name: reason for name in registry.BACKENDS if (reason := _missing(op, name, devices))}
            for op in registry.operators()
        },
        "rules": {
            op: {name: rule for name in registry.BACKENDS if (rule := registry.rule(op, name))}
            for op in registry.operators()
        },
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _used(op: str, device: str) -> str:
    preferred = registry.PREFERENCE[device]
    return next(name for name in preferred if not registry.why_not(op, name, device))


def _missing(op: str, name: str, devices: list[str]) -> str | None:
    """The reason of the device that the backend is for, where it runs on none."""
    reasons = {device: registry.why_not(op, name, device) for device in devices}
    if None in reasons.values():
        return None
    own = "cpu" if name == "cpu" else "cuda"
    return registry.why_not(op, name, own)


@command
def main(arguments: Sequence[str]) -> int:
    """Prints `collect()` as text or, with --json, as JSON. Returns the exit status: 0, or 2 after an error."""
    parser = Parser("info", __doc__)
    parser.add_argument("--json", action="store_true", help="Print JSON.")
    given = parser.parse_args(arguments)
    found = collect()
    if given.json:
        print(json.dumps(found, indent=2))
        return 0
    console = make_console()
    versions = "  ".join(f"{name} {number or '(not installed)'}" for name, number in found["versions"].items())
    console.print(versions, soft_wrap=True)
    console.print(f"instruction set {found['instruction_set']}, {found['threads']} threads")
    console.print(f"CUDA devices: {', '.join(found['cuda_devices']) or 'none'}", soft_wrap=True)
    table = Table("operator", "backend", "status")
    for op in registry.operators():
        for name in registry.BACKENDS:
            reason = found["missing"][op].get(name)
            used = [device for device, chosen in found["used"][op].items() if chosen == name]
            status = reason or ("used for " + ", ".join(used) if used else "available")
            rule = found["rules"][op].get(name)
            table.add_row(op, name, f"{status}. {rule}" if rule else status)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
