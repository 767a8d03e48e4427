"""Images that worker processes decode."""

import os

import torch

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
