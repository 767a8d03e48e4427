"""`python -m benchmarks.gpu.kernels [--device cuda] [--large]`: every operator once, for profilers and sanitizers."""

from __future__ import annotations

import argparse
import csv
import io
import shutil
import subprocess
import sys

import torch

from benchmarks.gpu.operators import every_operator
from benchmarks.gpu.table import Table

_METRICS = ("gpu__time_duration.sum", "dram__throughput.avg.pct_of_peak_sustained_elapsed")
OURS = r"(^_|arch_weights|mixed_sum|depthwise).*_kernel$"
"""The names of our kernels, and of no others."""
NCU = [
    "--csv",
    "--print-units=base",
    "--clock-control=none",  # ncu would set the clocks of a GPU that others use too
    f"--metrics={','.join(_METRICS)}",
    f"--kernel-name=regex:{OURS}",
    "--launch-count=150",
    "--kill=yes",  # once it has seen so many, as it prints when the program ends
]


def main() -> int:
    """Status 1 where an operator that can run here failed; one that cannot says so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--large", action="store_true", help="the shapes of the benchmarks instead of tiny ones")
    arguments = parser.parse_args()
    wrong = 0
    for name, make in every_operator(torch.device(arguments.device), dry=not arguments.large).items():
        try:
            run = make()
        except RuntimeError as error:
            print(f"{name}: left out, {str(error).splitlines()[0]}")
            continue
        try:
            run()
            if arguments.device.startswith("cuda"):
                torch.cuda.synchronize()
            print(f"{name}: ran")
        except RuntimeError as error:
            wrong = 1
            print(f"{name}: failed, {str(error).splitlines()[0]}")
    return wrong


def _script(table: Table, *options: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu.kernels", "--device", str(table.device), *options]


def profiling(table: Table) -> None:
    """Time of each kernel, by torch's profiler."""
    activity = torch.profiler.ProfilerActivity
    for name, make in every_operator(table.device, dry=table.dry).items():
        if "reference" in name:
            continue

        def profiled(make=make) -> dict[str, str]:
            run = make()
            for _ in range(3):
                run()
            with torch.profiler.profile(activities=[activity.CPU, activity.CUDA]) as profiler:
                run()
                if table.device.type == "cuda":
                    torch.cuda.synchronize()
            if table.device.type == "cpu":
                return {"operators": str(len(profiler.key_averages()))}
            on_gpu = torch.autograd.DeviceType.CUDA
            events = [event for event in profiler.key_averages() if event.device_type == on_gpu]
            return {event.key[:60]: f"{event.count} x {event.device_time:.1f} us" for event in events}

        table.attempt(f"kernels of {name}", profiled)


def counting(table: Table) -> None:
    """Time and share of the peak bandwidth of each kernel, by Nsight Compute, where the machine lets it count."""
    table.attempt("Nsight Compute", lambda: _by_ncu(table))


def _run(table: Table, *command: str) -> subprocess.CompletedProcess[str]:
    """Within the section's time: then `timeout` ends the program with what it has started."""
    if not shutil.which(command[0]):
        raise RuntimeError(f"{command[0]} is not on the path")
    limit = ["timeout", "-k", "2", str(max(table.left() - 3, 1))]
    return subprocess.run([*limit, *command], capture_output=True, text=True)


def _by_ncu(table: Table) -> str:
    found = _run(table, "ncu", *NCU, *_script(table, *([] if table.dry else ["--large"])))
    lines = found.stdout.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        raise RuntimeError((found.stdout + found.stderr).strip()[-200:].replace("\n", " "))
    values: dict[tuple[str, str], dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[start:]))):
        values.setdefault((row["ID"], row["Kernel Name"]), {})[row["Metric Name"]] = row["Metric Value"]
    for (_, kernel), metrics in values.items():
        duration, share = metrics.get(_METRICS[0]), metrics.get(_METRICS[1])
        table.note(f"ncu {kernel[:50]}", f"{duration} ns, {share} % of the peak DRAM bandwidth")
    return f"{len(values)} kernels"


def sanitizing(table: Table) -> None:
    """compute-sanitizer on one small call of every operator."""
    for tool in ("memcheck", "racecheck"):

        def check(tool: str = tool) -> str:
            found = _run(table, "compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *_script(table))
            summary = [line for line in found.stdout.splitlines() if "SUMMARY" in line]
            return f"{'clean' if found.returncode == 0 else f'status {found.returncode}'} {' '.join(summary)}"

        table.attempt(tool, check)


if __name__ == "__main__":
    sys.exit(main())
