"""Rows of figures: measured side by side, printed, and kept for the JSON; what fails is a row too."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

Run = Callable[[], object]
WARM_UP = 3
TIMING = 5.0
"""Seconds that a round of one variant may take at least, whatever is left."""
MAKING = 60.0
"""Seconds that making and warming up one variant may take: torch.compile knows no end."""
BASELINES = ("eager", "compile")
"""How the names of PyTorch's own forms begin."""


class OutOfTime(Exception):
    """The section, or a variant, has used up its seconds."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the block, once Python runs again, after so many seconds. For the main thread."""

    def end(*_: object) -> None:
        raise OutOfTime(f"longer than {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
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
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    keep: Callable[[], object] = lambda: None
    """Called after every row, so that what was measured stays, whatever follows."""
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
        self._check_time()
        try:
            with limited(self._left()):
                value = work()
        except Exception as error:
            value = failed(error)
        self.note(name, value)

    def compare(self, name: str, variants: dict[str, Callable[[], Run]], *, moved: int = 0, calls: int = 1) -> None:
        """Seconds of a call of each variant: median and quartiles over rounds in which each has its turn.

        Args:
            name: of the row.
            variants: make what is timed; what cannot be made or run gets its reason in place of seconds.
            moved: bytes that a call must read and write at least: gives the share of the copy bandwidth.
            calls: a round times so many together, as for steps; 1: as for kernels, behind a wait of the GPU during
                which the host gets ahead, so that launching takes no part.
        """
        self._check_time()
        found: dict[str, Any] = {}
        ready = self._made(variants, found)
        times: dict[str, list[float]] = {variant: [] for variant in ready}
        for _ in range(self.rounds):
            if self._left() < 0 and all(len(values) > 3 for values in times.values()):
                break
            for variant in list(times):
                try:
                    with limited(max(TIMING, self._left())):
                        times[variant].append(self._timed(ready[variant], calls))
                except Exception as error:
                    found[variant] = failed(error)
                    del times[variant]
        row: dict[str, Any] = {"section": self.section, "name": name, "bytes": moved, "seconds": found}
        for variant, values in times.items():
            low, median, high = statistics.quantiles(values, n=4)
            found[variant] = {"median": median, "low": low, "high": high, "rounds": len(values)}
        self._add(row)
        self._show(row)

    def _made(self, variants: dict[str, Callable[[], Run]], found: dict[str, Any]) -> dict[str, Run]:
        """The variants that could be made and warmed up; why the others could not goes into `found`.

        One that fails, or takes all of the section's time, costs its own cell: those before it are timed.
        """
        ready = {}
        for variant, make in variants.items():
            if self.only and not variant.startswith(self.only):
                continue
            if self._left() < 0:
                found[variant] = "skipped: no time is left"
                continue
            try:
                with limited(min(MAKING, self._left())):
                    run = make()
                    for _ in range(1 if self.dry else WARM_UP):
                        run()
                    self._synchronize()
                ready[variant] = run
            except Exception as error:
                found[variant] = failed(error)
        return ready

    def _add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self.keep()

    def _left(self) -> float:
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
        if self._left() < 0:
            raise OutOfTime


def failed(error: Exception) -> str:
    """In one line."""
    return f"failed: {type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
