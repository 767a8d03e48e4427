"""The moving average of weights and buffers, against its formula in plain numbers."""

import copy

import pytest
import torch
from torch import nn

from asose_fast.engine.recipe.average import WeightAverage


def make_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def changed(network, step):
    """Gives every tensor values of the step, of whole numbers too."""
    with torch.no_grad():
        for i, tensor in enumerate([*network.parameters(), *network.buffers()]):
            tensor.fill_((step + 1) * (i + 1))


def test_values_are_those_of_the_formula():
    network = make_network()
    expected = float(network[0].bias[0].detach())
    average = WeightAverage(network, 0.5)
    for step in range(15):
        changed(network, step)
        average.update(network)
        # The correction ends where (1 + t) / (10 + t) reaches 1/2, at t = 8.
        keep = (1 + step) / (10 + step) if step < 8 else 0.5
        expected = keep * expected + (1 - keep) * 2 * (step + 1)
        assert float(average.network[0].bias[0]) == pytest.approx(expected, rel=1e-5), step
    assert average.steps == 15
    assert average.network[1].num_batches_tracked == network[1].num_batches_tracked


def test_running_statistics_follow_like_weights():
    network = make_network()
    average = WeightAverage(network, 0.9)
    network[1].running_mean.fill_(10.0)
    average.update(network)  # keeps 1/10 of the mean's 0
    torch.testing.assert_close(average.network[1].running_mean, torch.full((3,), 9.0))


def test_it_shares_nothing_and_stays_in_evaluation_mode():
    network = make_network().train()
    average = WeightAverage(network, 0.9)
    before = copy.deepcopy(average.network.state_dict())
    changed(network, 3)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), average.network.state_dict().values(), strict=True))
    average.update(network)
    assert not average.network.training
    assert network.training
    assert not any(p.requires_grad for p in average.network.parameters())
    assert all(p.requires_grad for p in network.parameters())


def test_it_goes_on_from_its_state_to_the_same_bits():
    network, other = make_network(), make_network()
    whole, again = WeightAverage(network, 0.7), WeightAverage(other, 0.7)
    for step in range(3):
        changed(network, step)
        whole.update(network)
    again.load_state_dict(copy.deepcopy(whole.state_dict()))
    changed(network, 7)
    whole.update(network)
    again.update(network)
    assert again.steps == 4
    for a, b in zip(whole.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        assert torch.equal(a, b)
