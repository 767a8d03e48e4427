"""The searches at equal size: classes and percentiles of a table of the test's own, draws, and a search in small."""

import itertools
from collections import Counter

import pytest
import torch
from scipy import stats

from asose_fast.engine.alpha.budget import NAMES as NAMES_OF_BOUNDS
from asose_fast.engine.alpha.budget import Budget, best_path
from asose_fast.space.build import make_spec
from asose_fast.space.cells.genotype import from_text, to_text
from asose_fast.space.cells.spec import CellNetworkSpec
from asose_fast.space.cost import candidate_costs, cost_of
from benchmarks.evidence.equal_size import cells, signals
from benchmarks.evidence.equal_size.table import NAMES, Size, Table, path_of, size_of, wasteful
from tests.helpers import make_config

NONE, SKIP, SMALL, LARGE, POOL = range(5)
"""Of `NAMES`."""


def table():
    """Every cell, worth the number that its path spells."""
    paths = itertools.product(range(5), repeat=6)
    return Table({path: float(int("".join(map(str, path)), 5)) for path in paths})


def test_a_text_is_read_as_the_package_writes_it():
    spec = CellNetworkSpec.supernet(make_config(space="nasbench201", candidates=NAMES), 3, 10)
    path = (LARGE, POOL, NONE, SKIP, SMALL, LARGE)
    assert path_of(to_text(spec.derive(path))) == path
    with pytest.raises(ValueError, match="no cell of NAS-Bench-201"):
        path_of("|conv~0|")


def test_cells_of_one_size_cost_the_same_and_others_do_not():
    costs = {}
    for path in itertools.product((NONE, SMALL, LARGE), repeat=6):
        if list(path) == sorted(path) or path[::-1] == tuple(sorted(path)):
            text = to_text(
                CellNetworkSpec.supernet(make_config(space="nasbench201", candidates=NAMES), 3, 5).derive(path)
            )
            spec = from_text(text, in_channels=3, classes=5, channels=2, cells=1)
            costs.setdefault(size_of(path), set()).add(cost_of(spec, 8))
    assert len(costs) == 28
    assert all(len(found) == 1 for found in costs.values())
    assert len(set.union(*costs.values())) == 28


def test_the_mean_percentile_of_a_size_is_a_half():
    found = table()
    assert sum(map(len, found.classes.values())) == 5**6
    members = found.classes[Size(3, 3)]
    values = [found.percentile(path) for path in members]
    assert sum(values) / len(values) == pytest.approx(0.5)
    assert max(values) == found.percentile((LARGE,) * 3 + (SMALL,) * 3) == 1 - 0.5 / 20
    tied = Table(dict.fromkeys(members, 90.0))
    assert tied.percentile(members[0]) == 0.5


def test_a_convolution_that_nothing_reaches_or_uses_is_waste():
    """Edges: 0 to 1, 0 to 2, 1 to 2, 0 to 3, 1 to 3, 2 to 3."""
    assert wasteful((NONE, SKIP, LARGE, SKIP, NONE, SKIP))  # node 1 gets nothing
    assert wasteful((LARGE, SKIP, NONE, SKIP, NONE, SKIP))  # node 1 goes nowhere
    assert not wasteful((LARGE, NONE, NONE, NONE, SKIP, NONE))
    assert not wasteful((NONE, NONE, NONE, NONE, NONE, NONE))


def test_searches_have_sizes_that_were_not_explored_and_arms_share_seeds():
    planned = cells.jobs(table(), "digits", {})
    assert len(planned) == 32
    assert not {job.size for job in planned} & set(signals.SIZES)
    seeds = [{job.size: job.seed for job in planned if job.arm == arm} for arm in cells.ARMS]
    assert seeds[0] == seeds[1]
    assert len(seeds[0]) == 16


def test_a_mean_that_is_a_half_is_told_from_one_that_is_not():
    assert cells.against_half([0.4, 0.6, 0.45, 0.55])["p"] == pytest.approx(1)
    found = cells.against_half([0.7, 0.8, 0.75, 0.72, 0.78])
    assert found["mean"] == pytest.approx(0.75)
    assert found["low"] < 0.75 < found["high"]
    assert found["p"] < 0.01


SETTINGS = {
    "channels": 4,
    "cells": 1,
    "image_size": None,
    "limit_train": 60,
    "limit_test": 20,
    "batch_size": 10,
    "warmup_epochs": 1,
    "search_epochs": 1,
    "finals_epochs": 4,
    "finals_paths": 4,
}


@pytest.mark.parametrize("arm", cells.ARMS)
def test_a_search_derives_a_cell_of_the_size_that_it_is_given(arm):
    one = cells.search(cells.Job(arm, Size(1, 2), 3, "digits", SETTINGS))
    assert {size_of(path) for path in (one.found, *one.finalists)} == {Size(1, 2)}
    assert len(set(one.finalists)) == 4
    assert one.finalists[one.rungs[-1][0][0]] == one.found
    assert [len(rung) for rung in one.rungs] == [4, 2]
    figures = cells.compared(table(), [one, one._replace(seed=4)])
    assert figures[arm]["found"]["searches"] == 2


def test_noise_on_flat_logits_draws_every_cell_of_a_size_alike():
    config = make_config(space="nasbench201", candidates=NAMES, channels=2, cells=1, **cells.FLAT)
    costs, bounds = candidate_costs(make_spec(config, 1, 10), 8), cells.band(config, 1, 10, 8, Size(4, 1))
    budget = Budget(*(bounds[name] for name in NAMES_OF_BOUNDS[:4]))
    generator, counts = torch.Generator().manual_seed(0), Counter()
    for _ in range(900):
        noise = -torch.empty(6, 5).exponential_(generator=generator).log()
        counts[tuple(best_path(noise, costs, budget))] += 1
    assert {size_of(path) for path in counts} == {Size(4, 1)}
    deviation = sum((counts[path] - 10) ** 2 / 10 for path in table().classes[Size(4, 1)])
    assert deviation < stats.chi2.ppf(1 - 1e-6, 89)
