"""The choice among likely architectures at the end of the search."""

import itertools

import pytest
import torch

from asose_fast.config import BudgetConfig
from asose_fast.derive import derive
from asose_fast.engine.alpha.budget import path_cost
from asose_fast.engine.alpha.budget_keeper import BudgetKeeper
from asose_fast.engine.alpha.final_choice import different_paths, likely_paths
from asose_fast.engine.alpha.selector import CLOSED
from asose_fast.space.prune import pruned
from asose_fast.store import checkpoint
from tests.helpers import FEW, make_config, make_network, make_trainer


def argmax(scores):
    return scores.argmax(1).tolist()


def test_the_first_is_the_most_probable_and_all_differ():
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    paths = likely_paths(argmax, scores, 20, seed=0)
    assert paths[0] == argmax(scores)
    assert len(paths) == len({tuple(path) for path in paths}) == 21
    assert paths == likely_paths(argmax, scores, 20, seed=0)
    assert paths != likely_paths(argmax, scores, 20, seed=1)


def test_paths_are_drawn_by_their_probability():
    probabilities = torch.tensor([[0.4, 0.2, 0.4]])
    drawn = [likely_paths(argmax, probabilities.log(), 1, seed)[-1] for seed in range(2000)]
    # Besides the first, 1 and 2 come in the ratio of 0.2 to 0.4; six standard deviations of a share are 0.063.
    assert sum(path == [1] for path in drawn) / 2000 == pytest.approx(1 / 3, abs=0.063)


def test_a_search_that_is_sure_gives_one():
    scores = torch.full((2, 3), -60.0)
    scores[:, 1] = 0.0
    assert likely_paths(argmax, scores, 5, seed=0) == [[1, 1]]
    assert likely_paths(argmax, torch.zeros(1, 3), 5, seed=0)[1:] != []


def test_different_paths_are_those_asked_for_however_sure_the_search_is():
    scores = torch.full((3, 4), -60.0)
    scores[:, 1] = 0.0
    scores[1, 2] = CLOSED
    paths = different_paths(argmax, scores, 20, seed=0)
    assert paths[0] == [1, 1, 1]
    assert len(paths) == len({tuple(path) for path in paths}) == 20
    assert all(path[1] != 2 for path in paths)
    changed = [sum(k != 1 for k in path) for path in paths]
    assert changed == sorted(changed)
    assert paths == different_paths(argmax, scores, 20, seed=0)
    assert len(different_paths(argmax, torch.zeros(1, 3), 5, seed=0)) == 3


def test_different_paths_of_an_undecided_search_are_drawn_by_their_probability():
    probabilities = torch.tensor([[0.4, 0.2, 0.35, 0.05]])
    drawn = [different_paths(argmax, probabilities.log(), 2, seed) for seed in range(2000)]
    assert all(path[0] == [0] for path in drawn)
    # Of the other three 0.2, 0.35 and 0.05, at T = 1 or, after a draw of the first, at a higher one: at least 0.35 /
    # 0.6 at T = 1 and 1/3 at an infinite one.
    share = sum(path[1] == [2] for path in drawn) / 2000
    assert 0.40 < share < 0.65


def test_every_path_keeps_the_budget():
    network = make_network(FEW)
    free = BudgetKeeper(BudgetConfig(), 9)
    costs = free.costs(network)
    flops = sorted(path_cost(list(path), costs).flops for path in itertools.product(range(4), repeat=4))
    bound = flops[len(flops) // 3]
    keeper = BudgetKeeper(BudgetConfig(derive_max_flops=bound), 9)
    paths = likely_paths(lambda scores: keeper.choose(network, scores), torch.zeros(4, 4), 15, seed=0)
    assert len(paths) == 16
    assert all(path_cost(path, costs).flops <= bound for path in paths)
    assert any(path_cost(path, costs).flops > bound for path in likely_paths(argmax, torch.zeros(4, 4), 15, seed=0))


def test_a_run_derives_the_best_on_validation_images(tmp_path):
    trainer = make_trainer(tmp_path, derive_among=5)
    worth, value = {}, trainer.state.path_accuracy

    def measured(path):
        worth[tuple(path)] = value(path)
        return worth[tuple(path)]

    trainer.state.path_accuracy = measured
    trainer.run()
    assert len(worth) == 6
    chosen = tuple(FEW.index(name) for name in trainer.state.network.operations)
    assert worth[chosen] == max(worth.values())
    again = make_trainer(tmp_path / "again", derive_among=5)
    again.run()
    assert again.state.network.operations == trainer.state.network.operations


def test_a_run_that_is_resumed_before_the_choice_makes_the_same(tmp_path):
    whole = make_trainer(tmp_path, derive_among=5)
    whole.run()
    again = make_trainer(tmp_path / "again", derive_among=5)
    again.state.load_state_dict(checkpoint.load(tmp_path / "checkpoints" / "supernet.pt"))
    again.run()
    ours, theirs = whole.state.network.state_dict(), again.state.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("by", ["validation", "random", "evolution"])
def test_a_run_derives_what_the_command_does(tmp_path, by):
    trainer = make_trainer(tmp_path, derive_among=5, derive_by=by)
    trainer.run()
    assert derive(tmp_path, by).network.operations == pruned(trainer.state.network).operations


@pytest.mark.parametrize(("by", "measured"), [("random", 8), ("evolution", 8)])
@pytest.mark.parametrize("space", [{"space": "darts", "cells": 3}, {"space": "nasbench201", "cells": 1}])
def test_baselines_measure_cells(tmp_path, by, measured, space):
    state = make_trainer(tmp_path, **space, candidates=()).state
    asked = []

    def worth(path):
        asked.append(tuple(path))
        state.network.derive(path)
        return float(sum(path))

    best = state.pool().best(by, measured, worth)
    assert len(asked) == len(set(asked)) == measured
    assert sum(best) == max(map(sum, asked))


def test_a_way_to_choose_needs_a_number():
    with pytest.raises(ValueError, match="derive_by: evolution measures derive_among networks: give derive_among"):
        make_config(derive_by="evolution")
