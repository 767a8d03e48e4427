"""`python -m benchmarks.gpu [--device cuda] [--out FILE [--add [--stage NAME]]] [--only SECTION ...] [--seconds N]
[--within N] [--compile MODE ...] [--variants WORD ...] [--tf32]`

Everything that is claimed of a GPU, measured in one process: times are medians of CUDA events, variants in turn, after
a warm-up, on random data and rotated buffers, beside the copy bandwidth and the matrix products of the same run. What
fails, or runs out of its time, leaves a cell that says so. What ends the process leaves its name in FILE.now, for
another one with --add and the same --stage, which measures what is left. On a CPU (`--device cpu`) it is a dry run.

PyTorch's convolutions use TF32 unless told otherwise, and its matrix products, which ours are, do not. Here both
compute fp32 as fp32, or with `--tf32` both in TF32.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from asose_fast import info
from benchmarks.gpu import kernels, operators, training, waiting
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.table import Table, failed

SECTIONS = {
    "first": (training.first, 100),
    "mixing": (operators.mixing, 45),
    "sampling": (operators.sampling, 15),
    "convolving": (operators.convolving, 60),
    "steps": (training.timing, 100),
    "launches": (training.launching, 20),
    "waits": (waiting.synchronising, 30),
    "memory": (training.memory, 20),
    "graphs": (training.exactness, 20),
    "kernels": (kernels.profiling, 30),
    "counters": (kernels.counting, 60),
    "sanitizer": (kernels.sanitizing, 60),
}
"""What measures, and the seconds that it may take."""
MODES = ("default", "reduce-overhead", "max-autotune")


def hardware(device: torch.device) -> dict[str, Any]:
    """GPU, driver, versions and commit."""
    found: dict[str, Any] = {
        "info": info.collect(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    commands = {
        "driver": ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"],
        "commit": ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        "changes": ["git", "-C", str(Path(__file__).parent), "status", "--porcelain", "--untracked-files=no"],
    }
    for name, command in commands.items():
        try:
            found[name] = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError) as error:
            found[name] = failed(error)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = {
            "name": properties.name,
            "bytes": properties.total_memory,
            "sms": properties.multi_processor_count,
        }
    return found


def ceilings(table: Table) -> None:
    """What nothing below can be faster than: bytes read and written per second by a large copy, and the operations per
    second of large matrix products."""
    source = torch.randn((16 if table.dry else 2000) * 250_000, device=table.device)
    target = torch.empty_like(source)
    table.compare("copy", {"copy": lambda: lambda: target.copy_(source)}, moved=2 * source.numel() * 4)
    table.bandwidth = table.rows[-1]["bytes"] / table.rows[-1]["seconds"]["copy"]["median"]
    table.note("copy bandwidth", f"{table.bandwidth / 1e9:.0f} GB/s")
    side = 64 if table.dry else 8192
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=table.device).to(dtype) for _ in range(2))
        name = f"product {str(dtype).removeprefix('torch.')}"
        table.compare(name, {"product": lambda a=a, b=b: lambda: a @ b})
        if isinstance(timed := table.rows[-1]["seconds"].get("product"), dict):
            table.note(f"{name}, FLOP/s", f"{2 * side**3 / timed['median'] / 1e12:.3g} T")


def main(words: list[str] | None = None) -> None:
    """Prints the table and writes the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", default="gpu.json")
    parser.add_argument("--add", action="store_true", help="to the rows of that file")
    parser.add_argument("--stage", default="", help="its name: rows of it in the file stay, the rest is measured")
    parser.add_argument("--within", type=float, default=math.inf, metavar="N", help="seconds for everything")
    parser.add_argument("--only", nargs="*", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, help="for each section, in place of its own")
    parser.add_argument("--compile", nargs="*", choices=MODES, help="modes of torch.compile; a dry run has none")
    parser.add_argument(
        "--variants", nargs="+", default=[], help="how the names of those to compare begin: ours, eager"
    )
    parser.add_argument("--tf32", action="store_true", help="TF32 in convolutions and products of fp32")
    arguments = parser.parse_args(words)
    began, device = time.monotonic(), torch.device(arguments.device)
    dry = device.type == "cpu"
    compiling = arguments.compile if arguments.compile is not None else [] if dry else list(MODES)
    if dry:
        torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = arguments.tf32
    table = Table(device, dry, 2 if dry else 30, tuple(compiling))
    rows = Rows(Path(arguments.out), hardware(device), table.rows, arguments.add, arguments.stage)
    table.keeper = rows
    table.bandwidth = rows.bandwidth()
    if table.bandwidth is None:
        table.run("ceilings", ceilings, 30)
    table.only = tuple(arguments.variants)
    for name in arguments.only:
        work, seconds = SECTIONS[name]
        left = arguments.within + began - time.monotonic()
        table.run(name + ", TF32" * arguments.tf32, work, min(arguments.seconds or seconds, left))


if __name__ == "__main__":
    main()
