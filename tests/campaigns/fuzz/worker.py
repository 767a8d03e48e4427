"""Fuzzes a target in a process of its own, whose death or standstill is a finding too."""

from __future__ import annotations

import dataclasses
import mmap
import os
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hypothesis.errors import HypothesisException

from tests.campaigns.fork import fork
from tests.campaigns.fuzz.target import Target, run

STANDSTILL = 60
"""Seconds without a further input, of CPU time or, where the process waits for something, on the clock."""
_COUNTS = struct.Struct("qqq")


@dataclasses.dataclass
class Report:
    """What became of a target's inputs."""

    taken: int = 0
    refused: int = 0
    rounds: int = 0
    finding: str | None = None


def fuzz(target: Target, seconds: float, first_round: int, examples: int = 100) -> Report:
    """Rounds of `examples` inputs, one at least, until the time is over or something is found.

    A round's inputs follow from its number.
    """
    shared = mmap.mmap(-1, _COUNTS.size)
    with tempfile.NamedTemporaryFile() as log:
        sys.stdout.flush()
        pid = fork()
        if not pid:
            _rounds(target, seconds, first_round, examples, shared, Path(log.name))
        status = _watch(pid, shared)
        report = Report(*_COUNTS.unpack(shared[:]))
        said = Path(log.name).read_text(errors="replace")[-6000:]
    if status:
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else "found"
        report.finding = f"{target.name}: {how} in round {first_round + report.rounds}\n{said}"
    return report


def _rounds(target: Target, seconds: float, first: int, examples: int, shared: mmap.mmap, log: Path) -> None:
    """What the process does; it does not return."""
    status = 1
    try:
        file = os.open(log, os.O_WRONLY)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = sys.stderr = os.fdopen(file, "w", buffering=1)
        counts = [0, 0, 0]

        def told(taken: bool) -> None:
            counts[not taken] += 1
            shared[:] = _COUNTS.pack(*counts)

        deadline = time.monotonic() + seconds
        while not counts[2] or time.monotonic() < deadline:
            run(target, examples, first + counts[2], told)
            counts[2] += 1
            shared[:] = _COUNTS.pack(*counts)
        status = 0
    except (Exception, HypothesisException, BaseExceptionGroup):
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def _watch(pid: int, shared: mmap.mmap) -> int:
    """Waits for the end, or brings it about where nothing moves. Returns the status, negative for a signal."""
    seen, since, cpu = shared[:], time.monotonic(), _cpu_seconds(pid)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if shared[:] != seen or _state(pid) == "T":  # stopped from outside: no standstill of its own
            seen, since, cpu = shared[:], time.monotonic(), _cpu_seconds(pid)
        waits = _state(pid) == "S" and time.monotonic() - since > STANDSTILL
        if waits or _cpu_seconds(pid) - cpu > STANDSTILL:
            os.kill(pid, signal.SIGABRT)  # faulthandler then tells where it stood
        time.sleep(0.05)


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _state(pid: int) -> str:
    return _stat(pid)[0]


def _cpu_seconds(pid: int) -> float:
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
