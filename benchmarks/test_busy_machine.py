"""What does a weight step take beside four busy processes? Ours has the threads that a run would have there, eager
PyTorch those that it takes by default.

The row "alone" is of the same threads as PyTorch's default, without the busy processes.
"""

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch

from asose_fast.engine.load import Load
from asose_fast.engine.threads import FreeCores
from benchmarks.measure import Duration, interleaved, ratio
from benchmarks.steps import LAYOUTS, eager, make, ours, warm_up

BUSY = 4
LOOK = 1.0
"""So many seconds the cores are watched."""


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many other processes that never wait."""
    with contextlib.ExitStack() as stack:
        others = [
            stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"])) for _ in range(count)
        ]
        time.sleep(LOOK)
        try:
            yield
        finally:
            for other in others:
                other.kill()


def test_weight_step(benchmark, report, batch):
    most = torch.get_num_threads()
    if most == 1:
        pytest.skip("one thread waits for no other")
    parts = make(batch)
    steps = {f"eager {layout}, skipping": eager(layout, *parts, skipping=True) for layout in LAYOUTS}
    steps["ours"] = ours(*parts)
    warm_up(steps)
    alone = interleaved({name: run.weight for name, run in steps.items()}, rounds=15, warmup=1)
    threads = dict.fromkeys(steps, most)
    row = f"six layers, C=16, batch {batch}: weight step beside {BUSY} busy processes"
    try:
        with busy(BUSY):
            load = Load()
            time.sleep(LOOK)
            FreeCores(most, load).set()
            threads["ours"] = torch.get_num_threads()

            def step(name: str) -> None:
                torch.set_num_threads(threads[name])
                steps[name].weight()

            times = interleaved({name: lambda name=name: step(name) for name in steps}, rounds=15, warmup=1)
            benchmark.pedantic(lambda: step("ours"), rounds=5)
    finally:
        torch.set_num_threads(most)
    report(f"{row}, {threads['ours']} of {most} threads", Duration(statistics.median(times["ours"])))
    for name in list(steps)[:-1]:
        report(f"{row} / {name}", ratio(times[name], times["ours"]))
    for name in steps:
        report(f"{row} / {name} alone", ratio(times[name], alone[name]))
