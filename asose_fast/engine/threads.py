"""How many threads a process computes with."""

from __future__ import annotations

import torch

from asose_fast.config import Config
from asose_fast.engine.processes import ALONE, Processes, cores


def set_threads(config: Config, image_size: int, processes: Processes = ALONE) -> None:
    """Sets the configured threads, or the process's share of the cores; one where a step has so few elements that
    threads wait more than they work.

    At 65,000 elements (digits) one thread is as fast as two on a quiet machine, and a hundred times faster where other
    processes hold the cores that a second one would wait for.
    """
    small = config.batch_size / processes.count * image_size**2 * config.channels < 2**18
    if config.threads is not None or small:
        torch.set_num_threads(config.threads or 1)
    elif processes.count > 1:  # torchrun sets OMP_NUM_THREADS=1
        torch.set_num_threads(max(1, cores() // processes.local_count))
