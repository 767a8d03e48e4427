"""Passes over a user's loader: the same whenever they are made, and without a trace outside."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from asose_fast.library.loaders import Loaders, Passes, moved
from asose_fast.library.objective import LibraryObjective, size
from tests.helpers import CPU


class Noisy(Dataset):
    """Augmented by all three generators."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        noise = torch.rand(1).item() + np.random.rand() + random.random()
        return torch.tensor([index, noise]), index % 2


def drawn(passes, *arguments):
    return [x for x, _ in passes.batches(*arguments)]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pass_is_the_same_whenever_it_is_made(workers):
    def passes():
        return Passes("training", DataLoader(Noisy(), 4, shuffle=True, num_workers=workers), CPU, seed=5)

    first = passes()
    one = drawn(first, 1)
    torch.rand(7), random.random(), np.random.rand()
    again = drawn(passes(), 1)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert torch.equal(drawn(passes(), 1, 2)[0], one[2])
    assert not torch.equal(drawn(first, 2)[0], one[0])


def test_generators_outside_go_on_as_if_nothing_were_drawn():
    passes = Passes("training", DataLoader(Noisy(), 4, shuffle=True), CPU, seed=0)

    def draw():
        return torch.rand(1).item(), random.random(), np.random.rand()

    def seeded():
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)

    seeded()
    expected = [draw() for _ in range(3)]
    seeded()
    assert [draw() for _ in passes.batches(0)] == expected


def test_a_loader_without_length_is_counted():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(torch.tensor([1.0]), 0)] * 5)

    assert Passes("training", DataLoader(Stream(), 2), CPU, 0).num_batches() == 3


def test_sets():
    data = [(torch.zeros(1, 1), torch.zeros(1))]
    assert Loaders((data, data), CPU, 0).test is None
    assert Loaders([data, data, 2 * data], CPU, 0).test.num_batches() == 2


class Exhausted:
    """Gives its batches in one pass, and none in those that follow."""

    def __init__(self, batches):
        self.batches = iter(batches)

    def __iter__(self):
        return self.batches


class ExhaustedWithLength(Exhausted):
    def __len__(self):
        return 3


@pytest.mark.parametrize("make", [Exhausted, ExhaustedWithLength])
def test_a_loader_that_is_exhausted_after_a_pass_is_refused(make):
    passes = Passes("training", make([(torch.zeros(2, 1), torch.zeros(2))] * 3), CPU, 0)
    list(passes.loader)
    with pytest.raises(ValueError, match="training loader gave no batch in a further pass"):
        drawn(passes, 1)


def test_a_batch_without_examples_is_refused():
    batches = [(torch.zeros(n, 1), torch.zeros(n)) for n in (2, 0, 2)]
    with pytest.raises(ValueError, match="batch of the validation loader must hold examples, number 1 has none"):
        drawn(Passes("validation", batches, CPU, 0), 0)


def test_moved_keeps_structure():
    values = {"a": [torch.ones(2)], "b": (torch.ones(1), "text")}
    result = moved(values, torch.device("meta"))
    assert result["a"][0].device.type == result["b"][0].device.type == "meta"
    assert result["b"][1] == "text"


@pytest.mark.parametrize(
    ("y", "expected"),
    [(torch.zeros(4), 4), ({"a": torch.zeros(3, 2)}, 3), ((torch.zeros(2), 1), 2), (torch.zeros(()), 1), ((), 1)],
)
def test_size(y, expected):
    assert size(y) == expected


def test_accuracy_of_sequences_is_per_place():
    scores = torch.zeros(2, 3, 5)
    scores[:, 1] = 1.0
    y = torch.ones(2, 5, dtype=torch.long)
    y[0] = 2
    objective = LibraryObjective()
    assert float(objective(scores, y).correct) == 1.0
    assert objective.classes == 3


def test_labels_that_cross_entropy_ignores_do_not_count_in_the_accuracy():
    scores = torch.tensor([[0.0, 1.0]] * 4)
    assert float(LibraryObjective()(scores, torch.tensor([1, 1, 0, -100])).correct) == pytest.approx(4 * 2 / 3)
    assert float(LibraryObjective()(scores, torch.full((4,), -100)).correct) == 0.0
    padded = torch.tensor([[1, 1, 0], [1, 0, -100]])
    assert float(LibraryObjective()(scores[:2, :, None].expand(2, 2, 3), padded).correct) == pytest.approx(2 * 3 / 5)
