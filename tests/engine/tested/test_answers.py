"""Each image of a split has one answer, in the order of the files, however many processes share the batches."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asose_fast.data import load_data
from asose_fast.engine.evaluate import accuracy
from asose_fast.engine.processes import Processes
from asose_fast.engine.tested.answers import answers
from tests.helpers import CPU, make_config


@pytest.fixture(scope="module")
def split():
    return load_data(make_config(limit_test=45), 20, 0, CPU).test


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))


def test_they_are_those_of_an_evaluation(split, network):
    found = answers(network, split)
    assert network.training
    assert found.accuracy == accuracy(network, split.batches(0))
    network.eval()
    x, y = (torch.cat(parts) for parts in zip(*split.batches(0), strict=True))
    scores = network(x)
    network.train()
    assert torch.equal(found.labels, y)
    assert torch.equal(found.predicted, scores.argmax(1))
    torch.testing.assert_close(found.probabilities.float(), scores.softmax(1).amax(1))
    torch.testing.assert_close(found.losses.float(), F.cross_entropy(scores, y, reduction="none"))


class OneOf(Processes):
    """A process that hears of no other."""

    def sum(self, tensor):
        return tensor


@pytest.mark.parametrize("count", [2, 5])  # of the latter some have no batch
def test_processes_share_the_batches(split, network, count):
    whole = answers(network, split)
    parts = [answers(network, split, OneOf(rank, count)) for rank in range(count)]
    for name in whole._fields:
        assert torch.equal(sum(getattr(part, name) for part in parts), getattr(whole, name))
