"""Triton kernels launched through the JIT's whole path on a GPU that is not there: compiled and recorded, never run."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.driver import driver

SHARED_MEMORY = {80: 166_912, 90: 232_448}
"""Bytes that a program may use, by compute capability."""


@dataclasses.dataclass
class Launch:
    """What a kernel was launched with, and what it was compiled to."""

    name: str
    programs: tuple[int, int, int]
    warps: int
    shared: int
    """Bytes of shared memory."""
    cubin: bytes
    ptx: str


class _Recorder:
    """What Triton asks of a driver."""

    def __init__(self, arch: int) -> None:
        self.arch = arch
        self.launches: list[Launch] = []
        self.utils = self
        self._ptx = ""

    # The device's number is its architecture, because the JIT keeps what it compiled by device.
    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_MEMORY[self.arch]}

    def before_loading(self, module: Any, function: Any, name: str, files: dict[str, str], hash: str) -> None:
        self._ptx = next(Path(path).read_text() for path in files.values() if str(path).endswith(".ptx"))

    def load_binary(self, name: str, cubin: bytes, shared: int, device: int) -> tuple[object, Any, int, int, int]:
        # Handle of the module, the function as the launcher gets it, registers, spills, threads at most.
        return object(), (name, cubin, self._ptx), 0, 0, 1024

    def launcher_cls(self, source: ASTSource, metadata: Any) -> Any:
        def launch(x: int, y: int, z: int, stream: int, function: tuple[str, bytes, str], *_: Any) -> None:
            name, cubin, ptx = function
            # The driver that is active now: a compiled kernel is kept longer than the recorder that compiled it.
            driver.active.launches.append(Launch(name, (x, y, z), metadata.num_warps, metadata.shared, cubin, ptx))

        return launch


@contextlib.contextmanager
def recorded(arch: int) -> Iterator[list[Launch]]:
    """A block in which every launch of a Triton kernel is compiled for `arch` (80, 90), and put into the list."""
    before, recorder = driver._active, _Recorder(arch)
    driver.set_active(recorder)
    knobs.runtime.kernel_load_start_hook.add(recorder.before_loading)
    try:
        yield recorder.launches
    finally:
        knobs.runtime.kernel_load_start_hook.remove(recorder.before_loading)
        driver._active = before
