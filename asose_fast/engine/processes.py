"""The processes of `torchrun` that run one search together: who they are, and what they tell each other."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from asose_fast.data.part import Part
from asose_fast.machine import refused

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

Value = TypeVar("Value")
JOINING = datetime.timedelta(hours=1)
"""How long processes wait for each other before the run begins: one may download the data for all."""


SAME_MACHINES = "the processes must run the same releases of everything on the same kind of machine"


class ProcessLostError(RuntimeError):
    """Another process of the run has ended or no longer answers."""


class ProcessesDifferError(RuntimeError):
    """Processes that must hold the same no longer do; the message names what and which."""


class Processes:
    """The processes of a run, as one of them sees them. `Processes()` is a process on its own, which talks to nobody.

    All of them call the same methods in the same order. A method raises ProcessLostError where another process has
    ended or does not answer in time.

    Two groups carry the messages: gloo those that the host reads, so that no step waits for a GPU, and NCCL, where the
    network is on a GPU, the tensors.
    """

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0, local_count: int = 1) -> None:
        self.rank, self.count = rank, count
        self.local_rank, self.local_count = local_rank, local_count
        self._host: dist.ProcessGroup | None = None
        self._tensors: dist.ProcessGroup | None = None
        self._requested: signal.Signals | None = None
        self._agreed: signal.Signals | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Processes:
        """Itself: a copy of a network with synchronised norms is of the same processes."""
        return self

    @property
    def part(self) -> Part:
        """What this process takes of a batch or an epoch."""
        return Part(self.rank, self.count)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks to the user."""
        return self.rank == 0

    def open(self, device: torch.device, timeout: float) -> None:
        """Opens the groups of a run. Processes that keep silent for longer than `timeout` seconds count as lost."""
        if self.count == 1:
            return
        limit = datetime.timedelta(seconds=timeout)
        with self._in_touch():
            self._host = self._tensors = dist.new_group(backend="gloo", timeout=limit)
            if device.type == "cuda":
                self._tensors = dist.new_group(backend="nccl", timeout=limit)

    def stop(self, reason: signal.Signals) -> None:
        """Asks all processes to stop; they agree on it at their next `total`."""
        self._requested = reason

    @property
    def stopping(self) -> signal.Signals | None:
        """Why all processes are to stop after the present step, the same in each of them, or None."""
        return self._requested if self.count == 1 else self._agreed

    def total(self, *counts: int) -> list[int]:
        """Sums of numbers that the host knows. What the processes must know of a stop goes with them, at no cost."""
        if self.count == 1:
            return list(counts)
        asked = [int(self._requested == reason) for reason in (signal.SIGINT, signal.SIGTERM)]
        message = torch.tensor([*asked, *counts])
        with self._in_touch():
            dist.all_reduce(message, group=self._host)
        interrupted, terminated, *totals = message.tolist()
        if interrupted or terminated:
            self._agreed = signal.SIGTERM if terminated else signal.SIGINT
        return totals

    def sum(self, tensor: Tensor) -> Tensor:
        """Replaces `tensor`, on the device of the run, by its sum over the processes, the same bits in each."""
        if self.count > 1:
            with self._in_touch():
                dist.all_reduce(tensor, group=self._tensors)
        return tensor

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors on the device of the run by those of the first process."""
        if self.count == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_type.setdefault(tensor.dtype, []).append(tensor.detach())
        for same in by_type.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in same])
            with self._in_touch():
                dist.broadcast(flat, 0, group=self._tensors)
            for tensor, values in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
                tensor.copy_(values.view_as(tensor))

    def from_first(self, produce: Callable[[], Value]) -> Value:
        """What `produce` returns in the first process, which alone calls it; what it raises is raised in all.

        The value goes through pickle.
        """
        if self.count == 1:
            return produce()
        message: list[Any] = [None, None]
        if self.first:
            try:
                message[0] = produce()
            except Exception as error:
                message[1] = error
        with self._in_touch():
            dist.broadcast_object_list(message, 0, group=self._host)
        if message[1] is not None:
            raise message[1]
        value: Value = message[0]
        return value

    def one_first(self, produce: Callable[[], Value]) -> Value:
        """What `produce` returns here, called in the first process of every machine before it is in the others: one
        downloads, the others find what it left."""
        if self.local_rank:
            self.wait()
        value = produce()
        if not self.local_rank:
            self.wait()
        return value

    def wait(self) -> None:
        """Returns once every process has called it."""
        self.total()

    def check_same(self, digests: dict[str, str], rule: str = SAME_MACHINES) -> None:
        """Raises ProcessesDifferError, in all processes, where the digest of one is not that of the first; `rule` says
        what is to be done then."""
        if self.count == 1:
            return
        found: list[dict[str, str]] = [{}] * self.count
        with self._in_touch():
            dist.all_gather_object(found, digests, group=self._host)
        for what in digests:
            if strange := [str(rank) for rank, other in enumerate(found) if other[what] != found[0][what]]:
                raise ProcessesDifferError(
                    f"the {what} of process {', '.join(strange)} of {self.count} is not that of process 0: {rule}"
                )

    @contextlib.contextmanager
    def _in_touch(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # torch raises nothing narrower for gloo
            if refused(error):  # a worker of the data has ended, which raises wherever this thread is
                raise
            _outlive_torchrun()
            # gloo adds its source line in front and advice behind
            reason = re.sub(r"^\[\S*\] |\. This is typically.*", "", str(error).splitlines()[0])
            raise ProcessLostError(
                f"process {self.rank} of {self.count} has lost another, which has ended or does not answer ({reason})"
            ) from error


def _outlive_torchrun() -> None:
    """torchrun ends the others soon after one is lost, by SIGTERM and half a minute later by SIGKILL. This process ends
    by itself, and its error is to be told first."""
    if threading.current_thread() is threading.main_thread():  # Python allows no other to say so
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


ALONE = Processes()
"""For functions that one process may call as well as several; do not ask it to stop."""


@contextlib.contextmanager
def together() -> Iterator[Processes]:
    """The processes that `torchrun` started, or one on its own without it.

    Raises ValueError where the environment says that there are several but not how to reach them.
    """
    rank, count, local_rank, local_count = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    )
    processes = Processes(rank, count, local_rank, local_count)
    if count == 1:
        yield processes
        return
    with processes._in_touch():
        dist.init_process_group("gloo", store=_meeting_point(), rank=rank, world_size=count, timeout=JOINING)
    try:
        yield processes
    finally:
        dist.destroy_process_group()


def _meeting_point() -> Store:
    """Where the processes find each other's addresses.

    On one machine torchrun may keep its store when it restarts them, where they would find the addresses of those that
    ran before. (Several machines have a new one for each rendezvous, and need not agree on how often they restarted.)
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", timeout=JOINING))
    one_machine = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if one_machine else "0"
    return PrefixStore(f"asose_fast/{restarts}", store)


def started() -> int:
    """How many processes torchrun has started, this one included."""
    return int(os.environ.get("WORLD_SIZE", 1))


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def digest(*parts: Tensor | bytes) -> str:
    """A short digest of values, bit for bit."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part if isinstance(part, bytes) else part.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
