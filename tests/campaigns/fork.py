"""A copy of this process."""

from __future__ import annotations

import os

import torch

torch.set_num_threads(1)  # the copies must not wait for the threads of an OpenMP that they do not have


def fork() -> int:
    """`os.fork` for a process that has torch.

    The copy's threads must not be the first to ask for torch's pool of threads: it is made anew in a copy, and of two
    threads at once one finds none ("Invalid thread pool!", torch 2.13).
    """
    pid = os.fork()
    if not pid:
        torch.set_num_threads(1)
    return pid
