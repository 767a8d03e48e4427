"""What a kernel was compiled to: its registers, and how wide it loads."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import triton

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
REGISTERS, WARPS = 65_536, 64
"""Of a multiprocessor, from sm_80 to sm_90 (sm_86 and sm_89 have 48 warps)."""
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


def read(cubin: bytes, ptx: str) -> Code:
    """Reads the code of one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise ValueError(f"cuobjdump lists no kernel: {usage}")
    registers, stack = map(int, found.groups())
    loads: Counter[int] = Counter()
    for vector, bits in _LOAD.findall(ptx):
        loads[int(vector or 1) * int(bits)] += 1
    return Code(registers, stack, loads)
