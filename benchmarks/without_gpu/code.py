"""What a kernel was compiled to: its registers, and how wide it loads."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Protocol, TypeVar

REGISTERS, WARPS = 65_536, 64
"""Of a multiprocessor, from sm_80 to sm_90 (sm_86 and sm_89 have 48 warps)."""
MOST_SPILLS = 8
"""Bytes of a thread's stack: ptxas may give up a register or two so that a program more is resident."""
LEAST_WARPS = 16
"""That a multiprocessor holds at once, of 64."""
_USAGE = re.compile(r"Function (\S+):\s+REG:(\d+) STACK:(\d+)")
_LOAD = re.compile(r"\bld\.global(?:\.[a-zA-Z:]\w*)*?(?:\.v(\d))?\.[busf](\d+)")


@dataclasses.dataclass(frozen=True)
class Code:
    """A compiled kernel."""

    registers: int
    """Of a thread."""
    spills: int
    """Bytes of a thread's stack, where registers are spilled to."""
    loads: Counter[int]
    """Loads from global memory in the code, by their bits."""

    def resident(self, warps: int) -> int:
        """Warps on a multiprocessor at once, of programs of so many, as far as registers allow."""
        each = -(-self.registers // 8) * 8 * 32  # they are given out in eights
        return min(REGISTERS // (each * warps), WARPS // warps) * warps

    def width(self) -> int:
        """Bits of at least half of the loads."""
        count = 0
        for bits in sorted(self.loads, reverse=True):
            count += self.loads[bits]
            if 2 * count >= self.loads.total():
                return bits
        return 0


class Figures(Protocol):
    """What is told of a kernel's variants."""

    registers: int
    spills: int
    width: int
    warps: int


F = TypeVar("F", bound=Figures)


def worst(row: F, other: F) -> F:
    """One row for both: the most registers and spills, the narrowest loads and the fewest warps."""
    return dataclasses.replace(  # type: ignore[type-var]
        row,
        registers=max(row.registers, other.registers),
        spills=max(row.spills, other.spills),
        width=min(row.width, other.width),
        warps=min(row.warps, other.warps),
    )


def cell(row: Figures) -> str:
    """A row in a cell of a page's table."""
    spilled = f", {row.spills} bytes spilled" if row.spills else ""
    return f"{row.registers}, {row.width} bits, {row.warps}{spilled}"


def cuobjdump() -> str | None:
    """NVIDIA's lister of device code: on PATH, or the copy that Triton brings."""
    found = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if not found and triton and triton.origin:
        found = shutil.which("cuobjdump", path=str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    return found


def listing(option: str, path: str | Path) -> str:
    """What cuobjdump says of a file. Raises FileNotFoundError where there is no cuobjdump."""
    tool = cuobjdump()
    if tool is None:
        raise FileNotFoundError("neither the CUDA toolkit nor Triton brings cuobjdump")
    return subprocess.run([tool, option, path], capture_output=True, text=True, check=True).stdout


def usage(path: str | Path) -> dict[str, tuple[int, int]]:
    """Registers of a thread and bytes of its stack, by the names of the kernels in a file."""
    text = listing("--dump-resource-usage", path)
    found = {name: (int(registers), int(stack)) for name, registers, stack in _USAGE.findall(text)}
    if not found:
        raise ValueError(f"cuobjdump lists no kernel: {text}")
    return found


def loads(ptx: str) -> Counter[int]:
    """Loads from global memory, by their bits."""
    found: Counter[int] = Counter()
    for vector, bits in _LOAD.findall(ptx):
        found[int(vector or 1) * int(bits)] += 1
    return found


def read(cubin: bytes, ptx: str) -> Code:
    """Reads the code of one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        ((registers, stack),) = usage(file.name).values()
    return Code(registers, stack, loads(ptx))
