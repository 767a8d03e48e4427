"""The steps of a search on a GPU: time, launches, memory, and whether recorded steps are the plain ones."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import torch

from asose_fast.config import CANDIDATES
from asose_fast.engine.processes import ALONE
from asose_fast.engine.step.graphs import why_not
from benchmarks import steps
from benchmarks.counting import launches, operators
from benchmarks.gpu.table import Run, Table
from benchmarks.memory import saved_bytes
from benchmarks.steps import Steps

KINDS = ("mixture", "cadence")


def sizes(table: Table) -> list[tuple[int, int]]:
    """(batch, channels)"""
    return [(2, 8)] if table.dry else [(128, 64), (128, 16)]


def forms(table: Table, batch: int, channels: int) -> dict[str, Callable[[], Steps]]:
    """Ours, and the corrected baselines, each on a copy of one network."""
    parts = _parts(table, batch, channels)
    found: dict[str, Callable[[], Steps]] = {}
    for precision in ("fp32", "bf16"):
        found[f"ours {precision}"] = lambda p=precision: steps.ours(*parts, precision=p)
        found[f"ours {precision}, graphs"] = lambda p=precision: _with_graphs(table, parts, p)
        for layout in ["nhwc"] if table.dry else steps.LAYOUTS:
            for skipping in (False, True):
                name = f"eager {layout} {precision}" + ", skipping" * skipping
                options = {"autocast": precision == "bf16", "skipping": skipping}
                found[name] = lambda layout=layout, options=options: steps.eager(layout, *parts, **options)
    for mode, precision in itertools.product(table.compiling, ("fp32", "bf16")):
        options = {} if mode == "default" else {"mode": mode}
        found[f"compile {mode} {precision}"] = lambda o=options, p=precision: _compiled(parts, p == "bf16", o)
    return found


def _parts(table: Table, batch: int, channels: int) -> tuple:
    candidates = CANDIDATES[2:5] if table.dry else CANDIDATES
    return steps.make(batch, channels, candidates, device=table.device)


def _compiled(parts: tuple, autocast: bool, options: dict[str, str]) -> Steps:
    torch.compiler.reset()
    return steps.compiled(*parts, whole=True, autocast=autocast, **options)


def _with_graphs(table: Table, parts: tuple, precision: str) -> Steps:
    if reason := why_not(table.device, ALONE):
        raise RuntimeError(reason)
    return steps.ours(*parts, precision=precision, graphs=True)


def first(table: Table) -> None:
    """How long the first steps take: Triton compiles in them what later processes find on the disk."""
    for (batch, channels), precision in itertools.product(sizes(table), ("fp32", "bf16")):

        def steps_of_each_kind(batch: int = batch, channels: int = channels, precision: str = precision) -> str:
            began = time.monotonic()
            made = steps.ours(*_parts(table, batch, channels), precision=precision)
            for kind in KINDS:
                _run_of(made, kind)()
            if table.device.type == "cuda":
                torch.cuda.synchronize()
            return f"{time.monotonic() - began:.1f} s"

        table.attempt(f"first steps, C={channels}, batch {batch}, {precision}", steps_of_each_kind)


def timing(table: Table) -> None:
    """A weight step of the soft mixture, and the cadence of a search: 4 sampled weight steps and 1 alpha step."""
    for batch, channels in sizes(table):
        made = forms(table, batch, channels)
        for kind in KINDS:

            def step(make: Callable[[], Steps], kind: str = kind) -> Callable[[], Run]:
                return lambda: _run_of(make(), kind)

            # Every step of a skipping baseline's mixture is that of the other one.
            variants = {n: step(make) for n, make in made.items() if kind == "cadence" or "skipping" not in n}
            table.compare(f"{kind}, six layers, C={channels}, batch {batch}", variants, calls=1 if table.dry else 3)


def _run_of(made: Steps, kind: str) -> Run:
    """The step; the soft one of a baseline computes the gradients that it has."""
    if kind == "mixture" and made.model is not made.network:
        return made.soft
    return getattr(made, kind)


def launching(table: Table) -> None:
    """Launches of each step (on the CPU: operators), once warmed up."""
    count = operators if table.device.type == "cpu" else launches
    batch, channels = sizes(table)[0]
    wanted = ("ours fp32", "ours fp32, graphs", "ours bf16", "eager nhwc fp32", "eager nhwc fp32, skipping")
    for name, make in forms(table, batch, channels).items():
        for kind in ("weight", "alpha", "mixture") if name in wanted else ():

            def counted(make: Callable[[], Steps] = make, kind: str = kind) -> float:
                run = _run_of(make(), kind)
                for _ in range(1 if table.dry else 5):
                    run()
                return statistics.median(count(run).total() for _ in range(1 if table.dry else 3))

            table.attempt(f"{count.__name__} of a {kind} step, {name}", counted)


def memory(table: Table) -> None:
    """The most memory that a step takes beyond what lasts (on the CPU: what the graph keeps for backward)."""
    for batch, channels in sizes(table):
        for name, make in forms(table, batch, channels).items():
            for kind in KINDS:
                if "graphs" in name or "compile" in name or (kind == "mixture" and "skipping" in name):
                    continue

                def peak(make: Callable[[], Steps] = make, kind: str = kind) -> str:
                    made = make()
                    if table.device.type == "cpu":
                        return f"{saved_bytes(made.forward) / 2**20:.1f} MiB"
                    run = _run_of(made, kind)
                    run()
                    made.zero_grad()
                    torch.cuda.synchronize()
                    torch.cuda.reset_peak_memory_stats()
                    before = torch.cuda.memory_allocated()
                    run()
                    return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.1f} MiB"

                table.attempt(f"memory of a {kind}, C={channels}, batch {batch}, {name}", peak)


def exactness(table: Table) -> None:
    """The weights and alpha after some steps with graphs, and without: the largest difference, which is to be 0."""
    batch, channels = sizes(table)[0]
    for kind in ("weight", "alpha", "mixture"):

        def differ(kind: str = kind) -> str:
            ends = []
            deterministic = torch.backends.cudnn.deterministic
            torch.backends.cudnn.deterministic = True
            try:
                for graphs in (False, True):
                    parts = _parts(table, batch, channels)
                    if graphs and (reason := why_not(table.device, ALONE)):
                        raise RuntimeError(reason)
                    made = steps.ours(*parts, graphs=graphs, rate=0.05)
                    for _ in range(8):
                        getattr(made, kind)()
                    ends.append([*(p.detach() for p in made.parameters), made.logits.detach()])
            finally:
                torch.backends.cudnn.deterministic = deterministic
            largest = max((a - b).abs().max().item() for a, b in zip(*ends, strict=True))
            return "equal" if largest == 0 else f"largest difference {largest:.2g}"

        table.attempt(f"8 {kind} steps, graphs beside none", differ)
