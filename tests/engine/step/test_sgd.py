"""The optimizer of a weight step is PyTorch's SGD in another call: the same weights and state, up to rounding."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim import optimizer as optimizers

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


def stepped_alike(change, steps=3):
    """Our optimizer and PyTorch's, which take clipped steps; `change` of (optimizer, parameters) comes between them."""
    torch.manual_seed(0)
    values = [torch.randn(4, 3), torch.randn(5), torch.randn(3, 4, 2, 2)]
    gradients = [[torch.randn_like(v) for v in values] for _ in range(steps)]
    stepped = []
    for kind in (SGD, torch.optim.SGD):
        parameters = [nn.Parameter(v.clone()) for v in values]
        groups = [{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.1, "nesterov": True}]
        optimizer = kind(groups, 0.1, 0.9)
        for step in gradients:
            for p, gradient in zip(parameters, step, strict=True):
                p.grad = gradient.clone()
            change(optimizer, parameters)
            if kind is SGD:
                optimizer.clipped_step(1.0)
            else:
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
        stepped.append(optimizer)
        torch.testing.assert_close(
            *([p for group in o.param_groups for p in group["params"]] for o in (stepped[0], optimizer))
        )
    return stepped[0]


def exchange_data(_, parameters):
    parameters[0].data = parameters[0].data.clone()
    parameters[2].data = parameters[2].data.contiguous(memory_format=torch.channels_last)


def drop_a_gradient(_, parameters):
    parameters[1].grad = None


def reload(optimizer, _):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def exchange_momentum(optimizer, parameters):
    if optimizer.state:
        optimizer.state[parameters[1]] = {"momentum_buffer": torch.ones(5)}


def change_rate(optimizer, _):
    optimizer.param_groups[0]["lr"] *= 0.5


def step_another(_, parameters):
    torch.optim.SGD(parameters, 0.3).step()


@pytest.mark.parametrize(
    "change",
    [lambda *_: None, exchange_data, drop_a_gradient, reload, exchange_momentum, change_rate, step_another],
)
def test_whatever_happens_between_clipped_steps(change):
    stepped_alike(change)


def test_clipped_steps_have_momentum_only_where_a_gradient_was():
    optimizer = stepped_alike(drop_a_gradient)
    assert [p in optimizer.state for group in optimizer.param_groups for p in group["params"]] == [True, False, True]


@pytest.mark.parametrize("register", ["one", "all"])
@pytest.mark.parametrize("when", ["pre", "post"])
def test_hooks_see_clipped_steps(register, when):
    p, seen = nn.Parameter(torch.ones(2)), []
    optimizer = SGD([p], 0.5)
    owner, name = (optimizer, f"register_step_{when}_hook")
    if register == "all":
        owner, name = optimizers, f"register_optimizer_step_{when}_hook"
    p.grad = torch.full((2,), 0.5)
    handle = getattr(owner, name)(lambda *_: seen.append(p.tolist()))
    optimizer.clipped_step(5.0)
    handle.remove()
    optimizer.clipped_step(5.0)
    assert seen == [[1.0, 1.0] if when == "pre" else [0.75, 0.75]]
    assert p.tolist() == [0.5, 0.5]


def test_profilers_see_clipped_steps():
    p = nn.Parameter(torch.ones(2))
    optimizer = SGD([p], 0.5)
    p.grad = torch.ones(2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        optimizer.clipped_step(5.0)
    names = {event.name for event in profiler.events()}
    assert {"Optimizer.step#SGD.step", "asose_fast::sgd", "asose_fast::total_norm"} <= names


def test_schedulers_and_subclasses_see_clipped_steps():
    class Counting(SGD):
        count = 0

        def step(self, *args, **options):
            self.count += 1
            return super().step(*args, **options)

    p = nn.Parameter(torch.ones(2))
    p.grad = torch.full((2,), 0.5)
    counting, optimizer = Counting([p], 0.5), SGD([p], 0.5)
    counting.clipped_step(5.0)
    assert counting.count == 1
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.clipped_step(5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a scheduler warns where no step has come before its own
        schedule.step()
    assert p.tolist() == [0.5, 0.5]


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
