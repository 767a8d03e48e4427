"""How much faster several processes train than one: `python -m benchmarks.scaling [--processes 2] [--batch 64] ...`

Strong scaling, of one thread a process: the same batches, divided among the processes or computed by the first while
the others wait. Both alternate in the same processes, round by round, so that a drift of the machine meets both.
A round is the search's: 4 weight steps and 1 alpha step. Efficiency is the time of one over N times that of N.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.processes import ALONE, Processes, cores, together
from asose_fast.engine.step.optimizers import alpha_optimizer, weight_optimizer
from asose_fast.engine.step.steps import alpha_step, weight_step
from asose_fast.engine.step.sync_batch_norm import synchronise
from asose_fast.ops import arch_weights
from asose_fast.training_config import OptimizerConfig
from benchmarks.measure import ratio
from benchmarks.steps import CLIP, make


class Round:
    """4 weight steps and 1 alpha step of the supernet of six layers, with all learning rates 0."""

    def __init__(self, processes: Processes, batch: int, channels: int, sync: bool) -> None:
        self.processes = processes
        network, x, y = make(batch, channels)
        rows = processes.part.rows(batch)
        self.network = network.to(memory_format=torch.channels_last)
        self.x, self.y = x[rows].contiguous(memory_format=torch.channels_last), y[rows]
        if sync and processes.count > 1:
            synchronise(self.network, processes)
        blocks = network.evolvable_blocks()
        self.alpha = [torch.zeros(len(block.spec.candidates), requires_grad=True) for block in blocks]
        self.weights = weight_optimizer(OptimizerConfig(learning_rate=0.0), self.network)
        self.architecture = alpha_optimizer(self.alpha, 0.0)

    def __call__(self, number: int) -> None:
        """Rounds of one number draw the same paths, in whichever process."""
        for step in range(5):
            sampled = arch_weights(torch.stack(self.alpha), 1.0, rng=torch.tensor([number, step]))
            path = sampled.index.tolist()
            if step < 4:
                weight_step(self.network, self.weights, self.x, self.y, path, clip=CLIP, processes=self.processes)
            else:
                alpha_step(
                    self.network,
                    self.architecture,
                    self.x,
                    self.y,
                    Draw(sampled.weights, path),
                    processes=self.processes,
                )


class Times(NamedTuple):
    alone: list[float]
    together: list[float]


def measured(processes: Processes, options: argparse.Namespace) -> Times:
    """Seconds of each round; `alone` in the first process only."""
    alone = Round(ALONE, options.batch, options.channels, False) if processes.first else None
    several = Round(processes, options.batch, options.channels, options.sync_batch_norm)
    times = Times([], [])
    for number in range(-2, options.rounds):  # the first two warm up
        processes.wait()
        if alone is not None:
            seconds = timed(alone, number + 2)
            times.alone.append(seconds)
        processes.wait()
        times.together.append(timed(several, number + 2))
    return Times(times.alone[2:], times.together[2:])


def timed(run: Callable[[int], None], number: int) -> float:
    started = time.perf_counter()
    run(number)
    return time.perf_counter() - started


def work(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    with together() as processes:
        processes.open(torch.device("cpu"), 600.0)
        times = measured(processes, options)
        if processes.first:
            report(times, processes.count, options)
        processes.wait()


def report(times: Times, count: int, options: argparse.Namespace) -> None:
    faster = ratio(times.alone, times.together)
    norms = "synchronised norms" if options.sync_batch_norm else "norms of each part"
    one, several = (statistics.median(seconds) for seconds in times)
    images = 5 * options.batch
    machine = platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, 1 thread a process, {cores()} cores, {machine}")
    print(f"batch {options.batch}, {options.channels} channels, 32x32, {norms}; 4 weight steps and 1 alpha step")
    print(f"1 process    {one * 1e3:8.1f} ms  {images / one:8.0f} images/s")
    print(f"{count} processes  {several * 1e3:8.1f} ms  {images / several:8.0f} images/s")
    median, low, high = (f"{value / count:.0%}" for value in faster[:3])
    print(f"speed-up {faster}, efficiency {median} [{low}, {high}]")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="images of a step, of all processes together")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sync_batch_norm", action="store_true")
    options = parser.parse_args()
    if "RANK" in os.environ:
        work(options)
        return 0
    if options.processes < 2:
        parser.error("--processes must be at least 2: one alone is measured beside them")
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: quartiles are reported")
    if options.processes > cores():
        parser.error(f"{options.processes} processes of one thread need as many cores; there are {cores()}")
    command = ["-m", "torch.distributed.run", f"--nproc_per_node={options.processes}", "-m", "benchmarks.scaling"]
    return subprocess.run(
        [sys.executable, *command, *sys.argv[1:]], env={**os.environ, "OMP_NUM_THREADS": "1"}
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
