"""Processes for a test that are copies of one that has imported everything: a search begins 3 seconds earlier in them.

They are not for what an interpreter does as it starts or ends, or for what is imported.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from asose_fast.engine.processes import Processes, together
from tests.helpers import CPU

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__, "sklearn.datasets", "torch._dynamo", "torch.utils.tensorboard"])


class Done(NamedTuple):
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Command:
    """`python -m MODULE WORDS` on one thread, in a process of its own that runs while this one goes on."""

    def __init__(self, module: str, *words: str, **environment: str) -> None:
        self._files = [tempfile.NamedTemporaryFile() for _ in range(2)]  # noqa: SIM115
        names = [file.name for file in self._files]
        settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self._process = SERVER.Process(target=_be_the_command, args=(module, words, settings, names))
        self._process.start()

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, timeout: float = 300) -> Done:
        """Waits for its end; kills it after `timeout` seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.send_signal(signal.SIGKILL)
            self._process.join()
        return Done(self._process.exitcode, *(Path(file.name).read_bytes() for file in self._files))


def _be_the_command(module: str, words: Sequence[str], environment: dict[str, str], files: Sequence[str]) -> None:
    torch.set_num_threads(1)
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, name in enumerate(files, 1):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), descriptor)
    encoding, _, errors = environment.get("PYTHONIOENCODING", "utf-8").partition(":")
    sys.stdout = open(1, "w", encoding=encoding, errors=errors or "strict", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    command = importlib.import_module(module)
    sys.argv = [str(command.__file__), *words]
    sys.exit(command.main())


class Team:
    """Runs tasks in up to `size` processes."""

    def __init__(self, size: int) -> None:
        self._pool = ProcessPoolExecutor(size, mp_context=SERVER)

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
