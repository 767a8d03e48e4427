"""Costs of networks of cells: sums over the rows that all cells share, and the choice within a band of them."""

import itertools

import pytest
import torch

from asose_fast.config import Config
from asose_fast.engine.alpha.budget import Budget, BudgetError, best_path, path_cost
from asose_fast.engine.alpha.random_paths import random_paths
from asose_fast.space.cells import CellNetwork, CellNetworkSpec
from asose_fast.space.cost import candidate_costs, cost_of
from tests.helpers import make_trainer

THREE = ("none", "nor_conv_1x1", "nor_conv_3x3")


def bench(cells=1, candidates=(), channels=2):
    return CellNetworkSpec.supernet(
        Config(space="nasbench201", cells=cells, channels=channels, candidates=candidates), in_channels=3, classes=4
    )


@pytest.mark.parametrize("cells", [1, 3])
@pytest.mark.parametrize("image_size", [8, 9])
def test_costs_are_those_of_the_derived_networks(cells, image_size):
    spec = bench(cells)
    costs = candidate_costs(spec, image_size)
    generator = torch.Generator().manual_seed(cells)
    paths = torch.randint(5, (12, 6), generator=generator).tolist()
    for path in [[0] * 6, [3] * 6, [4] * 6, *paths]:
        assert path_cost(path, costs) == cost_of(spec.derive(path), image_size)


def test_a_row_costs_what_its_edge_costs_in_all_cells():
    costs = candidate_costs(bench(cells=2), 8)
    convolution = 2 * 9 * sum(channels**2 for channels in (2, 4, 8))  # of two cells a stage, without a bias
    assert costs.parameters[:, 3].tolist() == [convolution] * 6
    pixels = 2 * 2 * 9 * sum(side**2 * channels**2 for side, channels in ((8, 2), (4, 4), (2, 8)))
    assert costs.flops[:, 3].tolist() == [pixels] * 6
    assert not costs.parameters[:, [0, 1, 4]].any()


def test_the_choice_in_a_band_is_the_best_there_is():
    spec = bench(candidates=THREE)
    costs = candidate_costs(spec, 8)
    every = list(itertools.product(range(3), repeat=6))
    spent = {path: cost_of(spec.derive(path), 8) for path in every}
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(6, 3, generator=generator).double()
        ends = [spent[every[i]] for i in torch.randint(len(every), (2,), generator=generator).tolist()]
        low, high = (tuple(map(f, *ends)) for f in (min, max))
        within = [p for p in every if all(a <= c <= b for a, c, b in zip(low, spent[p], high, strict=True))]
        total = {p: float(scores[torch.arange(6), torch.tensor(p)].sum()) for p in within}
        assert tuple(best_path(scores, costs, Budget(*high, *low))) == max(total, key=total.__getitem__)
        drawn = random_paths(costs, Budget(*high, *low), 5, generator)
        assert all(tuple(path) in total for path in drawn)


def test_an_exact_size_is_a_band():
    costs = candidate_costs(bench(), 8)
    wanted = path_cost([3, 3, 2, 0, 1, 4], costs)
    scores = torch.zeros(6, 5)
    scores[:, 3] = 1.0
    path = best_path(scores, costs, Budget(*wanted, *wanted))
    assert (path.count(3), path.count(2)) == (2, 1)
    with pytest.raises(BudgetError, match="nothing lies between"):
        best_path(scores, costs, Budget(wanted.parameters + 1, None, wanted.parameters + 1))


def test_cells_of_darts_are_refused_with_the_reason():
    spec = CellNetworkSpec.supernet(Config(space="darts", cells=3, channels=2), in_channels=3, classes=4)
    assert isinstance(CellNetwork(spec), CellNetwork)
    with pytest.raises(ValueError, match="darts are no sums over rows of alpha: a node keeps two of its edges"):
        candidate_costs(spec, 8)


def test_a_run_of_cells_derives_what_has_the_size_that_it_is_given(tmp_path):
    settings = {"space": "nasbench201", "cells": 1, "channels": 2, "candidates": (), "finals_paths": 3}
    spec = CellNetworkSpec.supernet(Config(**settings), in_channels=1, classes=10)
    wanted = path_cost([3, 2, 2, 1, 1, 1], candidate_costs(spec, 8))
    trainer = make_trainer(
        tmp_path,
        **settings,
        finals_epochs=3,
        derive_max_parameters=wanted.parameters,
        derive_min_parameters=wanted.parameters,
        derive_max_flops=wanted.flops,
        derive_min_flops=wanted.flops,
    )
    trainer.run()
    state = trainer.state
    assert cost_of(state.network.spec, 8) == wanted
    rungs = [rung for record in state.history for rung in record.get("finals") or []]
    finalists = [finalist for rung in rungs for finalist in rung["finalists"]]
    assert {finalist["parameters"] for finalist in finalists} == {wanted.parameters}
    assert len({tuple(finalist["operations"]) for finalist in finalists}) == 3
