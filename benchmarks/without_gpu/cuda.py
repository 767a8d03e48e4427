"""Every CUDA kernel as nvcc compiles it, and what is asked of its code."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.without_gpu.code import (
    LEAST_WARPS,
    MOST_SPILLS,
    Code,
    cell,
    cuobjdump,
    listing,
    loads,
    usage,
    worst,
)

SOURCES = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
DTYPES = {"13__nv_bfloat16": "bf16", "6__half": "fp16", "f": "fp32"}
"""The element types of kernels, as their names are mangled. float64 is for checks."""
WAYS = {"Dense": "dense", "Strided": "any strides", "SharedTile": "tiles in shared memory", "DirectTile": "no tiles"}
"""How a kernel reads images, by the template argument that says so."""
LEAST_BITS = 128
"""Of the widest load: those at the end of a tensor, and of unaligned ones, are of one element and in the code too."""
ON_TABLES = {
    "arch_weights_fwd_kernel",
    "arch_weights_bwd_kernel",
    "mixed_sum_dot_kernel",
    "multi_depthwise_reduce_kernel",
}
"""Kernels of few blocks that read no images: neither width nor warps make them faster."""
ONE_BY_ONE = {
    "any strides": "neighbours in a layout of any strides may lie apart",
    "no tiles": "taps farther apart than shared memory holds meet other elements of the image at each place",
}
"""Why kernels that read images in these ways may load single elements."""
SPILLS = {
    "multi_depthwise_bwd_kernel": (
        24,
        "the gradients of a row, the pixels that meet them and the sums of both are kept, and 128 registers let two "
        "blocks be resident; on sm_80 alone",
    )
}
"""The bytes of stack that these may have, and why."""
_KERNEL = re.compile(r"__global__[^;{]*?(\w+_kernel)\(")
_THREADS = re.compile(r"\.maxntid (\d+)")


@dataclasses.dataclass(frozen=True, order=True)
class Row:
    """The worst of a kernel's variants of an element type and a way of reading."""

    kernel: str
    way: str
    dtype: str
    registers: int
    spills: int
    width: int
    """Bits of the widest load."""
    warps: int
    """Resident on a multiprocessor, of 64."""

    def faults(self) -> list[str]:
        """What is not as it should be, a line each."""
        where = ", ".join(filter(None, (self.kernel, self.way, self.dtype)))
        most, _ = SPILLS.get(self.kernel, (MOST_SPILLS, ""))
        found = [f"{where}: {self.spills} bytes of spilled registers, must be {most}"] if self.spills > most else []
        if self.kernel in ON_TABLES:
            return found
        if self.width < LEAST_BITS and self.way not in ONE_BY_ONE:
            found.append(f"{where}: no load has more than {self.width} bits, must have {LEAST_BITS}")
        if self.warps < LEAST_WARPS:
            found.append(f"{where}: {self.warps} resident warps with {self.registers} registers, must be {LEAST_WARPS}")
        return found


def missing() -> str | None:
    """Why the kernels cannot be compiled or looked at here, or None."""
    if not shutil.which("nvcc"):
        return "the CUDA kernels are compiled with nvcc, which is not on PATH"
    return None if cuobjdump() else "neither the CUDA toolkit nor Triton brings cuobjdump"


def compiler() -> str:
    """The version of nvcc."""
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"release ([\d.]+)", text)[0]


def rows(arch: int, sources: Iterable[Path] | None = None) -> list[Row]:
    """Compiles the kernels for sm_80 or sm_90 as CMake does, and reads their code."""
    found: dict[tuple[str, str, str], Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted(SOURCES.glob("*.cu")) if sources is None else sources:
            fat = Path(folder) / f"{source.stem}.fatbin"
            code = f"arch=compute_{arch},code=[sm_{arch},compute_{arch}]"
            subprocess.run(["nvcc", "-std=c++17", "-O3", "-gencode", code, "-fatbin", source, "-o", fat], check=True)
            for row in _read(source, fat):
                place = row.kernel, row.way, row.dtype
                found[place] = worst(row, found[place]) if place in found else row
    return sorted(found.values())


def kernels(source: Path) -> list[str]:
    """The names of the kernels that a file defines."""
    return _KERNEL.findall(source.read_text())


def _read(source: Path, fat: Path) -> Iterator[Row]:
    names = kernels(source)
    used = usage(fat) if names else {}
    for text in listing("--dump-ptx", fat).split(".entry ")[1:] if names else ():
        mangled = text.partition("(")[0]
        name = next(name for name in names if f"{len(name)}{name}" in mangled)
        arguments = mangled.partition(f"{name}I")[2]
        dtype = next((dtype for start, dtype in DTYPES.items() if arguments.startswith(start)), None)
        if dtype is None:  # float64, or no template
            continue
        threads = _THREADS.search(text)
        code = Code(*used[mangled], loads(text))
        way = next((way for argument, way in WAYS.items() if argument in arguments), "")
        warps = code.resident(-(-int(threads[1]) // 32) if threads else 1)
        yield Row(name, way, dtype, code.registers, code.spills, max(code.loads, default=0), warps)


def table(found: Iterable[Row]) -> Iterator[list[str]]:
    """The rows as those of a page: a line for a kernel and a way of reading, a column for an element type."""
    yield ["kernel", "reads", *DTYPES.values()]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in sorted(found):
        cells.setdefault((row.kernel, row.way), {})[row.dtype] = cell(row)
    for (kernel, way), of_dtypes in cells.items():
        yield [f"`{kernel}`", way, *(of_dtypes.get(dtype, "") for dtype in DTYPES.values())]
