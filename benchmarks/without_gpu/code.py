"""What ptxas made of a kernel: its registers, and how wide it loads."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
REGISTERS, WARPS = 65_536, 64
"""Of a multiprocessor, from sm_80 to sm_90 (sm_86 and sm_89 have 48 warps)."""
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,6}\*/\s+(?:@!?U?P\w+\s+)?(LDG|LDL|STL)((?:\.\w+)*)")


@dataclasses.dataclass(frozen=True)
class Code:
    """A compiled kernel."""

    registers: int
    """Of a thread."""
    spills: int
    """Accesses in the code to registers that were spilled."""
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


def read(cubin: bytes) -> Code:
    """Lists and reads the code of one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run("cuobjdump", "--dump-resource-usage", file.name)
        listing = _run("nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+)", usage)
    if found is None:
        raise ValueError(f"cuobjdump lists no kernel: {usage}")
    loads: Counter[int] = Counter()
    spills = 0
    for kind, suffixes in _INSTRUCTION.findall(listing):
        if kind == "LDG":
            loads[_bits(suffixes.split("."))] += 1
        else:
            spills += 1
    return Code(int(found[1]), spills, loads)


def _bits(suffixes: list[str]) -> int:
    for suffix in suffixes:
        if found := re.fullmatch(r"[US]?(8|16|64|128)", suffix):
            return int(found[1])
    return 32


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / tool, *arguments], capture_output=True, text=True, check=True).stdout
