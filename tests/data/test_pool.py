"""Images that worker processes decode."""

import os
import shutil
import time
from types import SimpleNamespace

import pytest
import torch

from asose_fast.data import DataError, pool
from asose_fast.data.pool import StreamPool
from tests.helpers import CPU


class GroupOfTheReader:
    """Images whose pixels are the process group of whoever reads them."""

    shape = (1, 1, 1)

    def __len__(self):
        return 1

    def read(self, numbers):
        return torch.tensor([os.getpgrp()])


def test_workers_do_not_get_the_signals_that_end_a_run():
    pool = StreamPool(GroupOfTheReader(), torch.zeros(1, dtype=torch.int64), 1, CPU)
    (batch,) = pool.fetch([torch.arange(1)])
    assert batch.pixels.item() != os.getpgrp()


class Counted:
    """Image n is one pixel of value n; `read` may do something first."""

    shape = (1, 1, 1)

    def __init__(self, first=lambda: None):
        self.first = first

    def __len__(self):
        return 8

    def read(self, numbers):
        self.first()
        return torch.tensor(numbers, dtype=torch.uint8).reshape(-1, 1, 1, 1)


def fetched(images, workers=2):
    batches = StreamPool(images, 10 * torch.arange(8), workers, CPU).fetch(list(torch.arange(8).split(3)))
    return [(batch.pixels.flatten().tolist(), batch.labels.tolist()) for batch in batches]


EXPECTED = [([0, 1, 2], [0, 10, 20]), ([3, 4, 5], [30, 40, 50]), ([6, 7], [60, 70])]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers):
    assert fetched(Counted(), workers) == EXPECTED


def test_batches_arrive_where_shared_memory_is_full(monkeypatch):
    def full(_):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", full)
    assert fetched(Counted()) == EXPECTED


def test_shared_memory_without_room_for_workers_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    with pytest.raises(DataError, match=r"2 workers need shared memory, and /dev/shm has 4,096 bytes left.*--shm-size"):
        fetched(Counted())
    assert fetched(Counted(), workers=0) == EXPECTED


def raise_data_error():
    raise DataError("image 3 is broken")


def test_what_a_worker_raises_is_raised_as_it_is():
    with pytest.raises(DataError) as caught:
        fetched(Counted(raise_data_error))
    assert str(caught.value) == "image 3 is broken"


def test_workers_that_send_nothing_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(pool, "PATIENCE", 0.3)
    with pytest.raises(RuntimeError, match=r"DataLoader timed out after 0\.3 seconds"):
        fetched(Counted(lambda: time.sleep(60)))
