"""Rows of figures: measured side by side, printed, and kept for the JSON; what fails is a row too."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import functools
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.gpu.rows import Rows

Run = Callable[[], object]
WARM_UP = 3
TIMING = 5.0
"""Seconds that a round of one variant may take at least, whatever is left."""
MAKING, COMPILING = 40.0, 100.0
"""Seconds that making and warming up one variant may take, and one of torch.compile, which knows no end."""
BASELINES = ("eager", "compile")
"""How the names of PyTorch's own forms begin."""
AGAIN = 75
"""Status of a process that could not go on, where another one may (EX_TEMPFAIL)."""


class OutOfTime(Exception):
    """The section, or a variant, has used up its seconds."""


@contextlib.contextmanager
def limited(seconds: float, patience: float) -> Iterator[None]:
    """Raises OutOfTime in the block, once Python runs again, after so many seconds. For the main thread.

    Where that is not in `patience` seconds more, as in a call that waits for a GPU, the process ends with a traceback.
    """

    def end(*_: object) -> None:
        raise OutOfTime(f"longer than {seconds:.0f} s")

    seconds = max(seconds, 0.01)
    before = signal.signal(signal.SIGALRM, end)
    faulthandler.dump_traceback_later(seconds + patience, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@dataclasses.dataclass
class Table:
    """The rows of a run."""

    device: torch.device
    dry: bool
    rounds: int
    compiling: tuple[str, ...]
    """Modes of torch.compile to measure beside."""
    only: tuple[str, ...] = ()
    """How the names of the variants begin that are compared; all of them where there are none."""
    patience: float = 5.0
    """Seconds until the process ends in what does not heed that its time is over."""
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    keeper: Rows | None = None
    """Keeps every row, so that what was measured stays, whatever follows; knows what earlier processes measured."""
    section: str = ""
    bandwidth: float | None = None
    """Bytes per second of a large copy in this run."""
    _deadline: float = float("inf")

    def run(self, section: str, work: Callable[[Table], None], seconds: float) -> None:
        """Has `work` add its rows; an error or the end of its time ends it and nothing else."""
        self.section, self._deadline = section, time.monotonic() + seconds
        try:
            work(self)
        except OutOfTime:
            self.note("the rest", f"skipped: out of its {seconds:.0f} s")
        except Exception as error:
            self.note("the rest", failed(error))

    def note(self, name: str, value: object) -> None:
        """A row of one value."""
        self._add({"section": self.section, "name": name, "value": value})
        print(f"{self.section:10s} {name:58s} {value}", flush=True)

    def attempt(self, name: str, work: Run) -> None:
        """A row of what `work` returns, or why it could not."""
        if not self._is_measured(name):
            self._check_time()
            self.note(name, self._outcome(name, "", self.left(), work))

    def compare(self, name: str, variants: dict[str, Callable[[], Run]], *, moved: int = 0, calls: int = 1) -> None:
        """Seconds of a call of each variant: median and quartiles over rounds in which each has its turn.

        Args:
            name: of the row.
            variants: make what is timed; what cannot be made or run gets its reason in place of seconds.
            moved: bytes that a call must read and write at least: gives the share of the copy bandwidth.
            calls: a round times so many together, as for steps; 1: as for kernels, behind a wait of the GPU during
                which the host gets ahead, so that launching takes no part.
        """
        if self._is_measured(name):
            return
        self._check_time()
        found: dict[str, Any] = {}
        ready = self._made(name, variants, found)
        times: dict[str, list[float]] = {variant: [] for variant in ready}
        for _ in range(self.rounds):
            if self.left() < 0 and all(len(values) > 3 for values in times.values()):
                break
            for variant in list(times):
                once = functools.partial(self._timed, ready[variant], calls)
                seconds = self._outcome(name, variant, max(TIMING, self.left()), once)
                if isinstance(seconds, Failed):
                    found[variant] = seconds
                    del times[variant]
                else:
                    times[variant].append(seconds)
        row: dict[str, Any] = {"section": self.section, "name": name, "bytes": moved, "seconds": found}
        for variant, values in times.items():
            low, median, high = statistics.quantiles(values, n=4)
            found[variant] = {"median": median, "low": low, "high": high, "rounds": len(values)}
        self._add(row)
        self._show(row)

    def _made(self, name: str, variants: dict[str, Callable[[], Run]], found: dict[str, Any]) -> dict[str, Run]:
        """The variants that could be made and warmed up; why the others could not goes into `found`.

        One that fails, or takes all of the section's time, costs its own cell: those before it are timed.
        """
        ready = {}
        for variant, make in variants.items():
            if self.only and not variant.startswith(self.only):
                continue
            if self.left() < 0:
                found[variant] = "skipped: no time is left"
                continue
            most = COMPILING if variant.startswith("compile") else MAKING
            run = self._outcome(name, variant, min(most, self.left()), functools.partial(self._warm, make))
            if isinstance(run, Failed):
                found[variant] = run
            else:
                ready[variant] = run
        return ready

    def _warm(self, make: Callable[[], Run]) -> Run:
        run = make()
        for _ in range(1 if self.dry else WARM_UP):
            run()
        self._synchronize()
        return run

    def _outcome(self, name: str, variant: str, seconds: float, work: Run) -> Any:
        """What `work` returns, or why it does not: it may fail, take too long, or have ended an earlier process.

        Where it leaves no usable GPU to this one, as a bad address does, the process ends: another takes up the rest.
        """
        cell = (self.section, name, variant)
        if self.keeper:
            if cell in self.keeper.ended:
                return Failed(self.keeper.ended[cell])
            self.keeper.now(*cell)
        try:
            with limited(seconds, self.patience):
                found = work()
        except Exception as error:
            found = failed(error)
            if self.keeper and not self._usable():
                self.keeper.now(*cell, found)
                sys.stdout.flush()
                os._exit(AGAIN)  # what would clean up needs the GPU
        if self.keeper:
            self.keeper.done()
        return found

    def _usable(self) -> bool:
        """Whether the GPU still does what it is asked."""
        try:
            with limited(self.patience, self.patience):
                self._synchronize()
        except Exception:
            return False
        return True

    def _is_measured(self, name: str) -> bool:
        return self.keeper is not None and (self.section, name) in self.keeper.measured

    def _add(self, row: dict[str, Any]) -> None:
        if self._is_measured(row["name"]):
            return
        self.rows.append(row)
        if self.keeper:
            self.keeper.keep()

    def left(self) -> float:
        """Seconds of the section."""
        return self._deadline - time.monotonic()

    def _show(self, row: dict[str, Any]) -> None:
        medians = {v: s["median"] for v, s in row["seconds"].items() if isinstance(s, dict)}
        theirs = [median for variant, median in medians.items() if variant.startswith(BASELINES)]
        for variant, seconds in row["seconds"].items():
            if not isinstance(seconds, dict):
                print(f"{self.section:10s} {row['name']:58s} {variant:22s} {seconds}", flush=True)
                continue
            notes = []
            if row["bytes"] and self.bandwidth:
                notes.append(f"{row['bytes'] / seconds['median'] / self.bandwidth:.2f} of copy")
            if theirs and not variant.startswith(BASELINES):
                notes.append(f"{min(theirs) / seconds['median']:.2f}x the best of PyTorch")
            spread = f"[{seconds['low'] * 1e6:.1f}, {seconds['high'] * 1e6:.1f}]"
            print(
                f"{self.section:10s} {row['name']:58s} {variant:22s} {seconds['median'] * 1e6:10.1f} us {spread:22s} "
                f"{', '.join(notes)}",
                flush=True,
            )

    def _timed(self, run: Run, calls: int) -> float:
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(calls):
                run()
            return (time.perf_counter() - start) / calls
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if calls == 1:
            torch.cuda._sleep(20_000_000)  # cycles: some 10 ms, in which the host launches what is timed
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / calls

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _check_time(self) -> None:
        if self.left() < 0:
            raise OutOfTime


class Failed(str):
    """Stands where a figure would, and says why there is none."""


def failed(error: Exception) -> Failed:
    """In one line."""
    text = str(error).strip()
    return Failed(f"failed: {type(error).__name__}: {text.splitlines()[0][:200] if text else ''}")
