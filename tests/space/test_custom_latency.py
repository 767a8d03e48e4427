"""Latencies of the candidates in a user's model, with a clock that counts FLOPs."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import asose_fast
from asose_fast import MixedOp
from asose_fast.library.budget import ModuleBudget
from asose_fast.space import latency
from asose_fast.space.custom import CustomNetwork
from asose_fast.space.custom_latency import custom_latencies
from asose_fast.space.latency import Latencies, Target, Timing
from tests.library.networks import batches, small


def make():
    """Two mixed operations of three and two candidates, the second one used twice."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 3))
    again = MixedOp({"narrow": nn.Linear(3, 3), "skip": nn.Identity()})
    first = MixedOp({"wide": wide, "linear": nn.Linear(3, 3), "skip": nn.Identity()})
    return nn.Sequential(first, again, nn.Tanh(), again, nn.Linear(3, 2))


@pytest.fixture
def flops(monkeypatch):
    """One FLOP takes a nanosecond."""
    with FlopCounterMode(display=False) as counter:
        monkeypatch.setattr(latency, "_clock", lambda target: counter.get_total_flops)
        yield


def test_a_network_takes_what_its_candidates_and_the_rest_take(flops):
    network = CustomNetwork(make()).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = custom_latencies(network, torch.randn(8, 3), Target(batch=4))
    table = found.table()
    for path in itertools.product(*network.columns):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.derive(path).model(torch.randn(4, 3))
        assert found.rest.low + sum(int(table[row, k]) for row, k in enumerate(path)) == counter.get_total_flops()
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_batch_of_too_few_examples_is_refused():
    with pytest.raises(ValueError, match="latency_batch must be at most 8, as many as a batch has, got 9"):
        custom_latencies(CustomNetwork(make()), torch.randn(8, 3), Target(batch=9))


def test_a_search_keeps_the_latency(monkeypatch, tmp_path):
    milliseconds = (5, 2, 0, 5), (3, 3, 1, 3)  # of wide, linear, skip and narrow
    told = Latencies(tuple(tuple(Timing(*3 * [10**6 * ms]) for ms in row) for row in milliseconds), Timing(0, 0, 0))
    measured = []
    monkeypatch.setattr("asose_fast.library.budget.custom_latencies", lambda *_: measured.append(1) or told)
    config = small(derive_max_latency=3.5, epochs=4)
    found = asose_fast.search(make(), (batches(), batches(seed=1)), config, folder=str(tmp_path / "kept"))
    allowed = [("linear", "skip"), ("skip", "narrow"), ("skip", "skip")]
    assert tuple(found.genotype.values()) in allowed
    assert measured == [1]
    budget = ModuleBudget(config, None)
    budget.load_state_dict([{"spec": {"rows": 2, "path": None}, **told.to_dict()}])
    assert budget.state_dict() == [{"spec": {"rows": 2, "path": None}, **told.to_dict()}]
