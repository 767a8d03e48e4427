"""A budget of the derived network: the exact choice against brute force, refusals, the soft penalty, whole runs."""

import itertools
import math

import pytest
import torch

from asose_fast.config import Config
from asose_fast.engine.alpha import budget as budget_module
from asose_fast.engine.alpha.budget import Budget, BudgetError, best_path, path_cost, penalty
from asose_fast.space import Network, NetworkSpec
from asose_fast.space.cost import Cost, Costs, candidate_costs, largest_derived
from tests.helpers import FEW, make_config, make_network, make_trainer


def random_costs(generator, layers=4, candidates=4):
    tables = [torch.randint(0, 30, (layers, candidates), generator=generator) for _ in range(2)]
    return Costs(tables[0], tables[1], Cost(7, 11))


@pytest.mark.parametrize("seed", range(40))
def test_the_choice_is_the_best_there_is(seed):
    generator = torch.Generator().manual_seed(seed)
    costs, scores = random_costs(generator), torch.randn(4, 4, generator=generator)
    limits = torch.randint(20, 90, (2,), generator=generator).tolist()
    budget = Budget(*(limits if seed % 3 else [limits[0], None]))
    best = None
    for path in itertools.product(range(4), repeat=4):
        cost = path_cost(list(path), costs)
        if all(limit is None or spent <= limit for spent, limit in zip(cost, budget[:2], strict=True)):
            score = float(scores[torch.arange(4), torch.tensor(path)].double().sum())
            best = score if best is None else max(best, score)
    if best is None:
        with pytest.raises(BudgetError):
            best_path(scores, costs, budget)
        return
    path = best_path(scores, costs, budget)
    assert float(scores[torch.arange(4), torch.tensor(path)].double().sum()) == pytest.approx(best, abs=1e-6)


def within(path, costs, budget):
    ends = zip(path_cost(list(path), costs), budget[:2], budget[2:4], strict=True)
    return all((most is None or c <= most) and (least is None or c >= least) for c, most, least in ends)


@pytest.mark.parametrize("seed", range(20))
def test_a_share_is_of_the_dearest_network_within_the_other_bounds(seed):
    generator = torch.Generator().manual_seed(seed)
    costs = random_costs(generator)
    every = [path_cost(list(path), costs) for path in itertools.product(range(4), repeat=4)]
    most = every[int(torch.randint(256, (), generator=generator))].parameters if seed % 2 else None
    dearest = max(cost.flops for cost in every if most is None or cost.parameters <= most)
    budget = Budget(parameters=most, min_share=0.75)
    assert budget.any
    assert budget.resolved(costs) == Budget(parameters=most, min_flops=math.ceil(0.75 * dearest))
    assert Budget(most, min_flops=dearest, min_share=0.75).resolved(costs).min_flops == dearest  # the larger one holds


def test_the_share_holds_in_a_run_and_is_none_in_cells(tmp_path):
    trainer = make_trainer(tmp_path, space="stages", depth=3, derive_min_share=0.9)
    costs = candidate_costs(trainer.state.network.spec, 8)
    dearest = largest_derived(trainer.state.network.spec, 8).flops
    trainer.run()
    assert 0.9 * dearest <= path_cost(trainer.state.best_path(), costs).flops <= dearest
    cells = make_trainer(tmp_path / "cells", space="darts", cells=1, derive_min_share=0.9)
    assert not cells.state.task.budget.binds(cells.state.network)
    assert not any(term == cells.state.over_budget for term in cells.state.regularizers)


@pytest.mark.parametrize("seed", range(60))
def test_the_choice_in_a_band_is_the_best_there_is(seed):
    generator = torch.Generator().manual_seed(seed)
    costs = random_costs(generator)
    if seed % 2:
        costs = Costs(costs.parameters // 6, costs.flops // 6, costs.fixed)  # sums repeat
    scores = torch.randint(0, 4, (4, 4), generator=generator).float()  # ties
    every = [path_cost(list(path), costs) for path in itertools.product(range(4), repeat=4)]
    low, high = (every[i] for i in torch.randint(256, (2,), generator=generator).tolist())
    ends = [sorted(pair) for pair in zip(low, high, strict=True)]
    most, least = [end[1] for end in ends], [end[0] for end in ends]
    if seed % 3 == 0:
        most = [None, None]
    elif seed % 3 == 1:
        least[0] = None
    budget = Budget(*most, *least)
    paths = [path for path in itertools.product(range(4), repeat=4) if within(path, costs, budget)]
    if not paths:
        with pytest.raises(BudgetError):
            best_path(scores, costs, budget)
        return
    total = {path: float(scores[torch.arange(4), torch.tensor(path)].sum()) for path in paths}
    path = tuple(best_path(scores, costs, budget))
    assert total[path] == max(total.values())  # KeyError: out of the band


def test_an_empty_band_names_its_bounds_and_the_nearest_costs():
    costs = Costs(torch.tensor([[0, 10], [0, 20]]), torch.zeros(2, 2, dtype=torch.int64), Cost(5, 1))
    text = r"derive_min_parameters = 16 \(the most is 35\) and derive_max_parameters = 24 \(the least is 5\)"
    with pytest.raises(BudgetError, match=text + ".*the nearest are 15 and 25"):
        best_path(torch.zeros(2, 2), costs, Budget(24, None, 16))
    with pytest.raises(BudgetError, match=r"derive_min_parameters = 36 \(the most is 35\)$"):
        best_path(torch.zeros(2, 2), costs, Budget(min_parameters=36))


def test_a_lower_bound_is_not_above_the_upper_one():
    with pytest.raises(ValueError, match="derive_min_flops must be at most derive_max_flops = 3, got 4"):
        make_config(derive_max_flops=3, derive_min_flops=4)


def test_settings_without_lower_bounds_are_read():
    values = make_config().to_dict()
    del values["derive_min_flops"], values["derive_min_parameters"]
    assert Config.from_dict(values) == make_config()


def test_the_penalty_is_the_share_below_a_lower_bound():
    costs, logits = random_costs(torch.Generator().manual_seed(1)), torch.zeros(4, 4, dtype=torch.float64)
    expected = costs.fixed.flops + float(costs.flops.double().mean(1).sum())
    assert float(penalty(logits, costs, Budget(min_flops=1000))) == pytest.approx(1 - expected / 1000)
    assert float(penalty(logits, costs, Budget(min_flops=int(expected)))) == 0


def test_without_a_bound_it_is_the_argmax():
    costs, scores = random_costs(torch.Generator()), torch.randn(4, 4)
    assert best_path(scores, costs, Budget()) == scores.argmax(1).tolist()


def test_a_budget_below_everything_names_the_least():
    costs = random_costs(torch.Generator().manual_seed(0))
    least = costs.fixed.flops + int(costs.flops.amin(1).sum())
    with pytest.raises(BudgetError, match=rf"derive_max_flops = 3 \(the least is {least}\)"):
        best_path(torch.zeros(4, 4), costs, Budget(flops=3))


def test_costs_are_those_of_the_derived_networks():
    network = make_network(FEW)
    costs = candidate_costs(network.spec, 9)
    for path in ([0, 1, 2, 3], [3, 3, 3, 3]):
        derived = network.derive(path)
        expected = largest_derived(derived.spec, 9)
        assert path_cost(path, costs) == expected
        assert expected.parameters == sum(p.numel() for p in derived.parameters())


def test_the_penalty_is_the_share_above_the_bound_and_has_its_gradient():
    costs = random_costs(torch.Generator().manual_seed(1))
    logits = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    probabilities = logits.detach().softmax(1)
    expected = [f + float((probabilities * t).sum()) for f, t in zip(costs.fixed, costs[:2], strict=True)]
    budget = Budget(int(expected[0] / 2), int(expected[1] * 2))
    found = penalty(logits, costs, budget)
    assert float(found.detach()) == pytest.approx(expected[0] / budget.parameters - 1)
    assert torch.autograd.gradcheck(lambda a: penalty(a, costs, budget), logits)


def middle(candidates=FEW):
    """FLOPs half-way between the cheapest and the dearest network of the tiny run."""
    config = make_config(candidates=candidates)
    costs = candidate_costs(NetworkSpec.chain(config, 1, 10), 8)
    least, most = (costs.fixed.flops + int(x.sum()) for x in (costs.flops.amin(1), costs.flops.amax(1)))
    return (least + most) // 2, most


def test_a_run_derives_within_its_budget(tmp_path):
    bound, _ = middle()
    trainer = make_trainer(tmp_path, derive_max_flops=bound, growth_patience=1, growth_threshold=99.0, growth_epochs=2)
    with torch.no_grad():  # where it would take the dearest of every layer
        for row in trainer.state.selector.alpha:
            row.zero_()[FEW.index("sep_conv_3x3")] = 5.0
    assert (
        path_cost(trainer.state.selector.best_path(), trainer.state.task.budget.costs(trainer.state.network)).flops
        > bound
    )
    trainer.run()
    assert largest_derived(trainer.state.network.spec, 8).flops <= bound
    assert all(
        largest_derived(Network(trainer.state.network.spec).spec, 8).flops <= bound
        for record in trainer.state.history
        if record["phase"] == "optimize"
    )


def test_the_penalty_draws_the_expected_cost_down(tmp_path):
    bound, _ = middle()
    costs = []
    for weight in (0.0, 300.0):
        trainer = make_trainer(
            tmp_path / str(weight), derive_max_flops=bound, budget_weight=weight, search_epochs=8, max_depth=2
        )
        with torch.no_grad():
            for row in trainer.state.selector.alpha:
                row.zero_()[FEW.index("sep_conv_3x3")] = 1.5
        trainer.run()
        expected = trainer.state.selector.logits().detach().softmax(1)
        network = Network(NetworkSpec.chain(trainer.state.config, 1, 10))
        costs.append(float((expected * candidate_costs(network.spec, 8).flops).sum()))
    assert costs[1] < 0.8 * costs[0]


def test_a_budget_that_no_network_keeps_is_refused_before_the_run(tmp_path):
    with pytest.raises(ValueError, match="derive_max_parameters = 5"):
        make_trainer(tmp_path, derive_max_parameters=5)


def test_growth_leaves_a_network_that_keeps_the_budget(tmp_path):
    config = make_config()
    costs = candidate_costs(NetworkSpec.chain(config, 1, 10), 8)
    least = costs.fixed.parameters + int(costs.parameters.amin(1).sum())
    trainer = make_trainer(
        tmp_path,
        derive_max_parameters=least + 1,
        growth_patience=1,
        growth_threshold=99.0,
        growth_epochs=3,
        growth_kinds=("wider",),
    )
    trainer.run()
    skipped = [r["growth"]["skipped"] for r in trainer.state.history if r.get("growth")]
    assert skipped
    assert all("no network of this space is within" in entry["wider"] for entry in skipped)


def test_many_partial_paths_are_compared_in_parts(monkeypatch):
    """The best path within two bounds is the same however many are compared at once."""
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randint(0, 1000, (9, 4), generator=generator) for _ in range(2)]
    costs, scores = Costs(*tables, Cost(3, 5)), torch.randn(9, 4, generator=generator)
    budget = Budget(parameters=2800, flops=3000, min_flops=2500)
    found = best_path(scores, costs, budget)
    for together in (1, 7, 10**6):
        monkeypatch.setattr(budget_module, "_TOGETHER", together)
        assert best_path(scores, costs, budget) == found
    every = [list(path) for path in itertools.product(range(4), repeat=9)]
    rows = torch.arange(9)
    spent = [fixed + table[rows, torch.tensor(every)].sum(1) for table, fixed in zip(tables, (3, 5), strict=True)]
    within = (spent[0] <= 2800) & (spent[1] <= 3000) & (spent[1] >= 2500)
    total = scores[rows, torch.tensor(every)].sum(1).masked_fill(~within, -math.inf)
    assert 0 < int(within.sum()) < len(every)
    assert every[int(total.argmax())] == found
