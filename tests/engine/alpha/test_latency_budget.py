"""A bound on the latency of the derived network, with latencies that are given."""

import itertools
import json

import pytest
import torch

from asose_fast.data import load_data
from asose_fast.engine.alpha import budget_keeper
from asose_fast.engine.alpha.budget import LATENCY_STEPS, Budget, best_path, penalty
from asose_fast.engine.processes import Processes
from asose_fast.engine.result import write_result
from asose_fast.engine.state import SearchState
from asose_fast.engine.task import ImageTask
from asose_fast.space.cost import Cost, Costs, candidate_costs
from asose_fast.space.latency import Latencies, Timing
from tests.helpers import FEW, make_config, make_trainer

MILLISECOND = 10**6


def told(spec, image_size, target):
    """A FLOP takes a microsecond."""
    costs = candidate_costs(spec, image_size)
    rows = tuple(tuple(Timing(*3 * [1000 * flops]) for flops in row) for row in costs.flops.tolist())
    return Latencies(rows, Timing(*3 * [1000 * costs.fixed.flops]))


@pytest.fixture
def timed(monkeypatch):
    """The number of supernets that were timed."""
    specs = []

    def time(spec, image_size, target):
        specs.append(spec)
        return told(spec, image_size, target)

    monkeypatch.setattr(budget_keeper, "candidate_latencies", time)
    return specs


def make_task(**changes):
    config = make_config(**changes)
    device = torch.device("cpu")
    return ImageTask(config, load_data(config, config.batch_size, config.seed, device), device)


def half_way(network):
    """Milliseconds half-way between the fastest and the slowest network."""
    latencies = told(network.spec, 8, None)
    table, fixed = latencies.table(), latencies.rest.low
    least, most = (fixed + int(x.sum()) for x in (table.amin(1), table.amax(1)))
    return (least + most) / 2 / MILLISECOND


def test_the_choice_is_the_best_within_the_latency():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        tables = [torch.randint(0, 30, (4, 4), generator=generator) for _ in range(3)]
        scores = torch.randn(4, 4, generator=generator)
        costs = Costs(tables[0], tables[1], Cost(7, 11), tables[2], 5)
        rows = torch.arange(4)
        within = [p for p in itertools.product(range(4), repeat=4) if 5 + int(tables[2][rows, list(p)].sum()) <= 50]
        found = best_path(scores, costs, Budget(latency=50))
        assert tuple(found) == max(within, key=lambda path: float(scores[rows, list(path)].sum()))


def test_rounding_keeps_the_bound():
    step = 10**9 // LATENCY_STEPS
    costs = Costs(torch.zeros(1, 2), torch.zeros(1, 2), Cost(0, 0), torch.tensor([[10**9 - step, 10**9 + 1]]))
    assert best_path(torch.tensor([[0.0, 1.0]]), costs, Budget(latency=10**9)) == [0]


def test_a_latency_that_no_network_has_is_named_in_milliseconds(timed):
    with pytest.raises(ValueError, match=r"derive_max_latency = 0\.001 \(the least is [0-9.]+\)"):
        make_task(derive_max_latency=0.001)


def test_the_penalty_is_the_excess_over_the_bound():
    costs = Costs(torch.zeros(1, 2), torch.zeros(1, 2), Cost(0, 0), torch.tensor([[100, 300]]))
    assert float(penalty(torch.zeros(1, 2), costs, Budget(latency=100))) == pytest.approx(1.0)


def test_a_run_derives_within_the_latency_and_says_so(tmp_path, timed):
    bound = half_way(make_trainer(tmp_path / "free").state.network)
    trainer = make_trainer(tmp_path / "bound", derive_max_latency=bound)
    state = trainer.state
    with torch.no_grad():  # where it would take the slowest of every layer
        for row in state.selector.alpha:
            row.zero_()[FEW.index("sep_conv_3x3")] = 5.0
    trainer.run()
    assert 0 < state.predicted_latency <= bound * MILLISECOND
    summary = write_result(state, state.data, tmp_path / "bound")
    latency = json.loads((tmp_path / "bound" / "summary.json").read_text())["latency"]
    assert latency == summary["latency"]
    assert latency["predicted"] == state.predicted_latency / MILLISECOND
    assert (latency["device"], latency["threads"], latency["batch"]) == ("cpu", 1, 1)
    assert 0 < latency["milliseconds"] <= latency["median"] <= latency["high"]


def test_a_run_that_goes_on_keeps_the_latencies_that_it_measured(tmp_path, timed):
    bound = half_way(make_trainer(tmp_path / "free").state.network)
    before = make_trainer(tmp_path / "before", derive_max_latency=bound).state
    task = make_task(derive_max_latency=bound)
    task.budget.load_state_dict([])
    after = SearchState(task)
    count = len(timed)
    after.load_state_dict(before.state_dict())
    assert after.best_path() == before.best_path()
    assert (
        after.task.budget.costs(after.network).latency.tolist()
        == before.task.budget.costs(before.network).latency.tolist()
    )
    assert len(timed) == count


def test_several_processes_are_refused(timed):
    with pytest.raises(ValueError, match="timed by one process, got 2"):
        SearchState(make_task(derive_max_latency=1e6), Processes(0, 2))
