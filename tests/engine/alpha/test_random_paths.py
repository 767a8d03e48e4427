"""Random paths within a band: all of them alike, none twice, the same for the same generator."""

import itertools

import pytest
import torch

from asose_fast.engine.alpha import random_paths as module
from asose_fast.engine.alpha.budget import Budget, BudgetError
from asose_fast.engine.alpha.random_paths import random_paths
from asose_fast.space.cost import Cost, Costs

TABLES = [torch.randint(0, 9, (3, 4), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
COSTS = Costs(TABLES[0], TABLES[1], Cost(7, 11))
BAND = Budget(22, 26, 17, 18)


def within():
    found = []
    for path in itertools.product(range(4), repeat=3):
        spent = [f + sum(int(t[i, k]) for i, k in enumerate(path)) for f, t in zip((7, 11), TABLES, strict=True)]
        if 17 <= spent[0] <= 22 and 18 <= spent[1] <= 26:
            found.append(path)
    return found


@pytest.mark.parametrize("batches", [0, 8])
def test_all_paths_of_a_band_and_no_others_are_drawn(batches, monkeypatch):
    monkeypatch.setattr(module, "BATCHES", batches)
    paths = random_paths(COSTS, BAND, 1000, torch.Generator().manual_seed(0))
    assert sorted(map(tuple, paths)) == within()
    assert len(paths) > 3


@pytest.mark.parametrize("batches", [0, 8])
def test_draws_are_uniform(batches, monkeypatch):
    monkeypatch.setattr(module, "BATCHES", batches)
    monkeypatch.setattr(module, "BATCH", 256)
    generator, every = torch.Generator().manual_seed(0), within()
    counts, draws = dict.fromkeys(every, 0), 100 * len(every)
    for _ in range(draws):
        counts[tuple(random_paths(COSTS, BAND, 1, generator)[0])] += 1
    freedom = len(every) - 1
    statistic = sum((n - 100) ** 2 / 100 for n in counts.values())
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


def test_the_generator_decides():
    first, again, other = (random_paths(COSTS, BAND, 4, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert first == again != other


def test_an_empty_band_is_an_error():
    with pytest.raises(BudgetError, match="derive_min_flops = 1,000"):
        random_paths(COSTS, Budget(min_flops=1000), 1, torch.Generator())
