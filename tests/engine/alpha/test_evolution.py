"""Regularised evolution: finds what is fit, keeps the bounds, measures nothing twice, and is the same for a seed."""

import random

import pytest
import torch

from asose_fast.config import BudgetConfig
from asose_fast.engine.alpha.budget import path_cost
from asose_fast.engine.alpha.budget_keeper import BudgetKeeper
from asose_fast.engine.alpha.evolution import evolved
from asose_fast.engine.alpha.pool import Pool
from asose_fast.engine.alpha.selector import CLOSED
from asose_fast.space.build import build, make_spec
from tests.helpers import make_config, make_network

CANDIDATES = ("skip_connect", "max_pool_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3")
EQUAL = torch.zeros(6, 5)
NETWORK = make_network(CANDIDATES, depth=6)
COSTS = BudgetKeeper(BudgetConfig(), 9).costs(NETWORK)
MIDDLE = path_cost([2, 1, 3, 0, 4, 1], COSTS)
FREE = BudgetConfig()
BAND = BudgetConfig(
    derive_min_flops=int(0.9 * MIDDLE.flops),
    derive_max_flops=int(1.1 * MIDDLE.flops),
    derive_min_parameters=int(0.8 * MIDDLE.parameters),
    derive_max_parameters=int(1.2 * MIDDLE.parameters),
)


def pool(seed=0, bounds=BAND, scores=EQUAL):
    return Pool(NETWORK, BudgetKeeper(bounds, 9), scores, seed)


class Sum:
    """The fitness of a path is a sum over its rows, so that the fittest path of a pool is known."""

    def __init__(self, seed):
        self.table = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
        self.asked = []

    def __call__(self, path):
        self.asked.append(tuple(path))
        return float(self.table[range(6), path].sum())


def within(path):
    cost = path_cost(path, COSTS)
    flops = BAND.derive_min_flops <= cost.flops <= BAND.derive_max_flops
    return flops and BAND.derive_min_parameters <= cost.parameters <= BAND.derive_max_parameters


@pytest.mark.parametrize(("bounds", "evaluations"), [(FREE, 200), (BAND, 100)], ids=["free", "band"])
def test_evolution_finds_the_fittest_more_often_than_as_many_random_draws(bounds, evaluations):
    found = {"evolution": 0, "random": 0}
    for seed in range(20):
        drawn, fitness = pool(seed, bounds), Sum(seed)
        best = drawn.choose(fitness.table)
        for by in found:
            found[by] += drawn.best(by, evaluations, fitness) == best
    assert found["evolution"] >= found["random"] + 8


@pytest.mark.parametrize("by", ["random", "evolution"])
def test_what_is_measured_keeps_the_band_and_is_measured_once(by):
    fitness = Sum(0)
    best = pool().best(by, 40, fitness)
    assert len(fitness.asked) == len(set(fitness.asked)) == 40
    assert all(within(path) for path in fitness.asked)
    assert fitness(best) == max(map(fitness, fitness.asked[:40]))
    assert not all(within(path) for path in pool(bounds=FREE).uniform(40))


@pytest.mark.parametrize("by", ["random", "evolution"])
def test_the_seed_decides_and_alpha_does_not(by):
    first, again, other, decided = Sum(0), Sum(0), Sum(0), Sum(0)
    pool(3).best(by, 30, first)
    pool(3).best(by, 30, again)
    pool(4).best(by, 30, other)
    pool(3, scores=torch.randn(6, 5)).best(by, 30, decided)
    assert first.asked == again.asked == decided.asked != other.asked


def test_uniform_paths_of_a_band_are_uniform():
    """Without bounds as well: every candidate of a row is as frequent as the others."""
    paths = torch.tensor([pool(seed, FREE).uniform(1)[0] for seed in range(500)])
    counts = torch.stack([(paths == k).sum(0) for k in range(5)])
    assert float((counts - 100).abs().max()) < 5 * (500 * 0.2 * 0.8) ** 0.5
    everything = sorted(map(tuple, pool().uniform(10**5)))
    assert len(everything) == len(set(everything))
    assert sum(within(list(path)) for path in torch.cartesian_prod(*[torch.arange(5)] * 6).tolist()) == len(everything)


def test_a_closed_candidate_is_in_no_path():
    scores = EQUAL.clone()
    scores[:, 3] = CLOSED
    for bounds in (FREE, BAND):
        paths = pool(bounds=bounds, scores=scores).uniform(50)
        asked = Sum(0)
        pool(bounds=bounds, scores=scores).best("evolution", 50, asked)
        assert all(3 not in path for path in [*paths, *asked.asked])
        assert any(4 in path for path in paths)


@pytest.mark.parametrize("by", ["random", "evolution"])
def test_a_share_of_the_dearest_network_is_kept(by):
    dearest = path_cost(COSTS.flops.argmax(1).tolist(), COSTS).flops
    asked = Sum(0)
    pool(bounds=BudgetConfig(derive_min_share=0.8)).best(by, 60, asked)
    assert len(set(asked.asked)) >= 20
    assert all(0.8 * dearest <= path_cost(list(path), COSTS).flops for path in asked.asked)


@pytest.mark.parametrize("by", ["random", "evolution"])
def test_a_share_is_none_where_costs_are_no_sums_over_rows(by):
    cells = build(make_spec(make_config(space="darts", cells=1, candidates=CANDIDATES), 3, 5))
    scores = torch.zeros(cells.spec.rows, len(CANDIDATES))
    drawn = [Pool(cells, BudgetKeeper(BudgetConfig(derive_min_share=share), 9), scores, 0) for share in (0.8, 0.0)]
    with_share, without = (one.best(by, 8, lambda path: float(sum(path))) for one in drawn)
    assert with_share == without


@pytest.mark.parametrize(("bounds", "most"), [(FREE, 1), (BAND, 2)], ids=["free", "band"])
def test_a_mutation_changes_one_row_and_in_a_band_another_where_it_must(bounds, most):
    asked, parent = pool()._mutation() if bounds is BAND else pool(bounds=FREE)._mutation(), pool().uniform(1)[0]
    draws = random.Random(0)
    children = [asked(parent, draws) for _ in range(200)]
    changes = [[row for row in range(6) if child[row] != parent[row]] for child in children]
    assert {len(rows) for rows in changes} == set(range(1, most + 1))
    assert {row for rows in changes for row in rows} == set(range(6))
    assert all(within(child) for child in children) == (bounds is BAND)
    alone = [child for child, rows in zip(children, changes, strict=True) if len(rows) == 1]
    assert len({tuple(child) for child in alone}) > 3


def test_a_pool_of_few_paths_ends():
    scores = torch.full((6, 5), CLOSED)
    scores[:, 0] = 0.0
    scores[0, 1] = 0.0
    asked = Sum(0)
    best = pool(bounds=FREE, scores=scores).best("evolution", 50, asked)
    assert sorted(asked.asked) == [(0,) * 6, (1, 0, 0, 0, 0, 0)]
    assert best == max(([k, 0, 0, 0, 0, 0] for k in (0, 1)), key=asked)


def test_the_oldest_dies_though_it_is_the_fittest():
    """A population of two: the third generation cannot descend from the fittest, which is dead by then."""
    parents = []

    def child(path, draws):
        parents.append(path[0])
        return [len(parents) + 1]

    best = evolved(lambda count: [[0], [1]], child, lambda path: -path[0], 6, seed=0)
    assert best == [0]
    assert all(parent in (i, i + 1) for i, parent in enumerate(parents))
    assert len(parents) == 4
