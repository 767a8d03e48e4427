"""Several processes for a test, which talk to each other as those of torchrun do."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import torch

from asose_fast.search.processes import Processes, together
from tests.helpers import CPU


class Team:
    """Runs tasks in up to `size` processes, which begin as copies of one that has imported everything."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._pool = ProcessPoolExecutor(size, mp_context=context)

    def run(self, count: int, task: Callable[..., Any], *arguments: object, **keywords: object) -> list[Any]:
        """What `task(processes, ...)`, a function of a module, returns in each of `count` processes."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        futures = [self._pool.submit(_member, rank, count, port, task, arguments, keywords) for rank in range(count)]
        return [future.result() for future in futures]

    def close(self) -> None:
        self._pool.shutdown()


def _member(
    rank: int,
    count: int,
    port: int,
    task: Callable[..., Any],
    arguments: tuple[object, ...],
    keywords: dict[str, object],
) -> Any:
    where = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    environment = {key: str(value) for key, value in where.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with mock.patch.dict(os.environ, environment), together() as processes:
        return task(processes, *arguments, **keywords)


def opened(processes: Processes) -> Processes:
    """Ready to exchange tensors, and patient where the machine is not its own."""
    processes.open(CPU, 3600.0)
    return processes
