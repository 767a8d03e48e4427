"""The optimizer of a weight step is PyTorch's SGD in another call: the same weights and state, up to rounding."""

import copy

import pytest
import torch
from torch import nn

from asose_fast.engine.step.optimizers import weight_optimizer
from asose_fast.engine.step.sgd import SGD
from asose_fast.engine.step.steps import weight_step
from asose_fast.training_config import OptimizerConfig, RecipeConfig
from tests.helpers import FEW, make_batch, make_network

CONFIG = OptimizerConfig(learning_rate=0.1)
PATHS = ([3, 3, 2, 3], [2, 3, 3, 3], [3, 2, 2, 1])


def plain(optimizer, network):
    """PyTorch's optimizer of the same settings, over the parameters of another network."""
    parameters = iter(network.parameters())
    defaults = {"momentum", "weight_decay", "nesterov"}
    groups = [
        {"params": [next(parameters) for _ in group["params"]], **{k: group[k] for k in defaults}}
        for group in optimizer.param_groups
    ]
    return torch.optim.SGD(groups, optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e6])
@pytest.mark.parametrize("recipe", [None, RecipeConfig(nesterov=True)])
def test_training_steps_are_those_of_pytorch(recipe, clip):
    network = make_network(FEW)
    twin = copy.deepcopy(network)
    ours = weight_optimizer(CONFIG, network, recipe)
    theirs = plain(ours, twin)
    assert type(ours) is SGD
    for path in PATHS:
        batch, norms = make_batch(), [[], []]
        for model, optimizer, seen in zip((network, twin), (ours, theirs), norms, strict=True):
            weight_step(model, optimizer, *batch, path, clip=clip, check_gradient=seen.append)
        torch.testing.assert_close(*norms)
    for (name, p), q in zip(network.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)
        assert (p in ours.state) == (q in theirs.state)
        if p in ours.state:
            torch.testing.assert_close(*(o.state[w]["momentum_buffer"] for o, w in ((ours, p), (theirs, q))))
    assert [p for p in network.parameters() if p not in ours.state]  # off all paths


def test_vectors_do_not_decay_where_a_recipe_says_so():
    network = make_network(FEW)
    optimizer = weight_optimizer(CONFIG, network, RecipeConfig(decay_norms=False))
    for p in network.parameters():
        p.grad = torch.zeros_like(p)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer.step()
    for p, old in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old if p.dim() <= 1 else old * (1 - 0.1 * CONFIG.weight_decay))


def test_gradients_stay_as_they_are():
    network = make_network(FEW)
    norms = []
    optimizer = weight_optimizer(CONFIG, network)
    weight_step(network, optimizer, *make_batch(), PATHS[0], clip=1e-3, check_gradient=norms.append)
    assert norms[0] > 1e-2
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    torch.testing.assert_close(nn.utils.get_total_norm(gradients), norms[0])


def test_hooks_and_closures_are_called_once():
    p = nn.Parameter(torch.ones(2))
    optimizer, called = SGD([p], 0.5), []
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2
    assert called == ["before", "after"]
    assert not p.any()


def test_state_goes_to_pytorchs_optimizer_and_back():
    p, q = (nn.Parameter(torch.ones(3)) for _ in range(2))
    ours, theirs = SGD([p], 0.1, 0.9), torch.optim.SGD([q], 0.1, 0.9)
    for one, other, here, there in ((ours, theirs, p, q), (theirs, ours, q, p)):
        here.grad = torch.ones(3)
        one.step()
        other.load_state_dict(copy.deepcopy(one.state_dict()))
        there.data.copy_(here)
        there.grad = torch.ones(3)
    ours.step()
    theirs.step()
    torch.testing.assert_close(p, q)


@pytest.mark.parametrize("clip", [0.0, 5.0])
def test_a_step_without_any_gradient_moves_nothing(clip):
    network = nn.Linear(27, 5).requires_grad_(False)
    head = nn.Parameter(torch.zeros(5))
    optimizer, norms = SGD(network.parameters(), 0.1, 0.9), []

    class Model(nn.Module):
        def forward(self, x):
            return network(x.flatten(1)) + head

    before = network.weight.clone()
    weight_step(Model(), optimizer, *make_batch(size=3), None, clip=clip, check_gradient=norms.append)
    assert torch.equal(network.weight, before)
    assert norms == ([torch.tensor(0.0)] if clip else [])
    assert not optimizer.state


def test_zeroed_gradients_are_gone_or_0():
    p = nn.Parameter(torch.ones(2))
    optimizer = SGD([p], 0.1)
    p.grad = torch.ones(2)
    optimizer.zero_grad(set_to_none=False)
    assert torch.equal(p.grad, torch.zeros(2))
    optimizer.zero_grad()
    assert p.grad is None


@pytest.mark.parametrize("move", [lambda m: m.bfloat16(), lambda m: m.to("meta")])
def test_other_parameters_are_left_to_pytorch(move):
    assert type(weight_optimizer(CONFIG, move(nn.Linear(2, 2)))) is torch.optim.SGD
