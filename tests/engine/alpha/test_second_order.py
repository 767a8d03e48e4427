"""The second-order gradient of alpha against exact differentiation through a step, and that it leaves no trace."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.alpha.second_order import unrolled_gradient
from asose_fast.engine.step.steps import Ahead, alpha_step
from tests.helpers import FEW, make_batch, make_network, make_selector, make_trainer

RATE, DECAY, MOMENTUM = 0.3, 0.01, 0.9


class Smooth(nn.Module):
    """A two-layer network whose hidden units are scaled by architecture weights (1, 3)."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x, architecture):
        return self.last(torch.tanh(self.first(x)) * architecture[0])


def problem():
    torch.manual_seed(1)
    network = Smooth().double()
    optimizer = torch.optim.SGD(network.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)
    x, y = torch.randn(2, 8, 4, dtype=torch.float64), torch.randint(2, (2, 8))
    for _ in range(2):  # so that there is momentum
        optimizer.zero_grad()
        F.cross_entropy(network(x[0], torch.ones(1, 3)), y[0]).backward()
        optimizer.step()
    return network, optimizer, x, y


@pytest.mark.parametrize("fresh", [True, False], ids=["no momentum yet", "momentum"])
def test_it_is_the_gradient_through_one_step(fresh):
    network, optimizer, x, y = problem()
    if fresh:
        optimizer.state.clear()
    architecture = torch.tensor([[0.5, 0.2, 0.3]], dtype=torch.float64)

    leaf = architecture.clone().requires_grad_()
    named = dict(network.named_parameters())
    loss = F.cross_entropy(torch.func.functional_call(network, named, (x[0], leaf)), y[0])
    gradients = torch.autograd.grad(loss, list(named.values()), create_graph=True)
    ahead = {}
    for (name, p), g in zip(named.items(), gradients, strict=True):
        momentum = 0 if fresh else MOMENTUM * optimizer.state[p]["momentum_buffer"]
        ahead[name] = p.detach() - RATE * (g + DECAY * p.detach() + momentum)
    expected_loss = F.cross_entropy(torch.func.functional_call(network, ahead, (x[1], leaf)), y[1])
    (expected,) = torch.autograd.grad(expected_loss, leaf)

    def on(batch):
        return lambda a: F.cross_entropy(network(x[batch], a), y[batch])

    found_loss, found = unrolled_gradient(network, optimizer, architecture, on(0), on(1))
    torch.testing.assert_close(found_loss, expected_loss.detach())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    (first_order,) = torch.autograd.grad(on(1)(leaf), leaf)
    assert (first_order - expected).norm() > 0.01 * expected.norm()


def test_a_second_order_step_moves_alpha_alone():
    network, (x, y) = make_network(FEW), make_batch()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    selector = make_selector(FEW)
    sampled = selector.sample("search")
    marked = next(network.parameters())
    marked.grad = torch.ones_like(marked)
    before = copy.deepcopy(network.state_dict())
    alpha = torch.optim.SGD(selector.alpha, 1.0)
    old = [row.detach().clone() for row in selector.alpha]
    draw = Draw(sampled.weights, sampled.index.tolist())
    result = alpha_step(network, alpha, x, y, draw, ahead=Ahead(optimizer, x.flip(0), y.flip(0)))
    assert result.images == len(y)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert torch.equal(marked.grad, torch.ones_like(marked))
    assert all(not torch.equal(row, previous) for row, previous in zip(selector.alpha, old, strict=True))


def test_weights_that_the_step_does_not_use_stay_where_they_are():
    network, optimizer, x, y = problem()
    used = network.first

    def train(architecture):
        return torch.tanh(used(x[0]) * architecture[0]).sum()

    seen = []

    def valid(architecture):
        seen.append((network.last.weight.detach().clone(), used.weight.detach().clone()))
        return F.cross_entropy(network(x[1], architecture), y[1])

    last, first = network.last.weight.detach().clone(), used.weight.detach().clone()
    unrolled_gradient(network, optimizer, torch.ones(1, 3, dtype=torch.float64), train, valid)
    assert torch.equal(seen[0][0], last)
    assert not torch.equal(seen[0][1], first)


def test_with_a_learning_rate_of_0_it_is_the_first_order():
    gradients = []
    for second in (False, True):
        torch.manual_seed(0)
        network, (x, y) = make_network(FEW).double(), make_batch(dtype=torch.float64)
        selector = make_selector(FEW)
        sampled = selector.sample("search")
        optimizer = torch.optim.SGD(network.parameters(), 0.0)
        draw = Draw(sampled.weights, sampled.index.tolist())
        ahead = Ahead(optimizer, x, y) if second else None
        alpha_step(network, torch.optim.SGD(selector.alpha, 0.0), x, y, draw, ahead=ahead)
        gradients.append(torch.stack([row.grad for row in selector.alpha]))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-9)


def test_a_search_of_second_order_ends_and_resumes_to_the_same_bits(tmp_path):
    whole = make_trainer(tmp_path / "whole", alpha_order="second")
    states = []
    whole._end_epoch = lambda phase, end=whole._end_epoch: (
        end(phase),
        states.append(copy.deepcopy(whole.state.state_dict())),
    )
    whole.run()
    again = make_trainer(tmp_path / "again", alpha_order="second")
    again.state.load_state_dict(states[1])
    again.run()
    ours, theirs = whole.state.network.state_dict(), again.state.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
