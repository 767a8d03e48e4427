"""Searcher: a search in a loop of one's own."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.optimizer import _global_optimizer_pre_hooks

from asose_fast import Config, MixedOp, Searcher
from asose_fast.space import CANDIDATES
from tests.library.networks import NAMES, Choices, batches


def make(**changes):
    torch.manual_seed(0)
    network = Choices()
    return network, Searcher(network, Config(**changes), alpha_steps=50)


def test_loop_learns_and_derives():
    network, searcher = make(seed=2)
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    before = copy.deepcopy(searcher.alpha)
    for epoch in range(12):
        for (x, y), (x_valid, y_valid) in zip(batches(), batches(seed=1), strict=True):
            searcher.sample(uniform=epoch < 3)
            F.cross_entropy(network(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            if epoch >= 3:
                searcher.alpha_step(lambda x=x_valid, y=y_valid: F.cross_entropy(network(x), y))
    assert all(searcher.alpha[name] != before[name] for name in NAMES)
    searcher.best()
    derived = searcher.derive()
    x, y = batches(1, 60, seed=5)[0]
    assert torch.equal(derived(x), network(x))
    assert (derived(x).argmax(1) == y).float().mean() > 0.8
    assert not any(isinstance(module, MixedOp) for module in derived.modules())
    assert searcher.genotype == {n: max(searcher.alpha[n], key=searcher.alpha[n].get) for n in searcher.genotype}


def test_alpha_step_has_the_gradient_of_autograd():
    """One soft mixture, whose gradient is exact: dL/da = J(w) c / T."""
    torch.manual_seed(0)
    mixed = MixedOp({"a": nn.Linear(3, 2), "b": nn.Linear(3, 2), "c": nn.Linear(3, 2)}).double()
    searcher = Searcher(mixed, Config(estimator="soft", boost_top_k=0))
    x, y = batches()[0]
    seen = []

    def loss():
        seen.append(mixed.plan.weights.detach().double())
        return F.cross_entropy(mixed(x.double()), y)

    searcher.alpha_step(loss)
    (weights,) = seen
    leaf = weights.clone().requires_grad_()
    outputs = torch.stack([op(x.double()) for op in mixed.ops.values()])
    (cost,) = torch.autograd.grad(F.cross_entropy((leaf[:, None, None] * outputs).sum(0), y), leaf)
    expected = weights * (cost - (weights * cost).sum()) / 1.5
    torch.testing.assert_close(searcher.selector.alpha[0].grad.double(), expected, rtol=1e-5, atol=1e-7)


def test_weights_get_no_gradient_in_alpha_steps_and_the_choice_stays():
    network, searcher = make()
    x, y = batches()[0]
    searcher.sample()
    chosen = network(x)
    value = searcher.alpha_step(lambda: F.cross_entropy(network(x), y))
    assert not value.requires_grad
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert torch.equal(network(x), chosen)


def test_backward_of_a_framework():
    network, searcher = make()
    x, y = batches()[0]
    scaled = []
    before = copy.deepcopy(searcher.alpha)
    searcher.alpha_step(lambda: F.cross_entropy(network(x), y), lambda loss: (scaled.append(1), (8 * loss).backward()))
    assert scaled
    assert searcher.alpha != before


def test_a_mixture_is_sampled_where_the_estimator_trains_one():
    searcher = make(estimator="soft")[1]
    searcher.sample()
    assert searcher._network.mixed["shared"].plan.index is None
    searcher.sample(uniform=True)
    assert searcher._network.mixed["shared"].plan.weights is None


def test_state_goes_on():
    def steps(network, searcher):
        x, y = batches()[0]
        for _ in range(3):
            searcher.alpha_step(lambda: F.cross_entropy(network(x), y))
        return searcher.alpha

    network, searcher = make(estimator="local_score")
    steps(network, searcher)
    state = copy.deepcopy(searcher.state_dict())
    expected = steps(network, searcher)
    _, other = make(estimator="local_score", seed=7)
    other = Searcher(network, Config(estimator="local_score", seed=7), alpha_steps=50)
    other.load_state_dict(state)
    assert steps(network, other) == expected


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda network, x: torch.zeros(()), "does not depend on any mixed operation"),
        (lambda network, x: network(x).sum() * float("nan"), "the loss of the alpha step is nan"),
    ],
)
def test_losses_that_teach_nothing(loss, message):
    network, searcher = make()
    before = copy.deepcopy(searcher.alpha)
    with pytest.raises(ValueError, match=message):
        searcher.alpha_step(lambda: loss(network, batches()[0][0]))
    assert searcher.alpha == before
    assert all(p.requires_grad for p in network.parameters())


def test_alpha_in_the_weights_optimizer_is_refused():
    network, searcher = make()
    before = copy.deepcopy(searcher.alpha)
    x, y = batches()[0]
    searcher.alpha_step(lambda: F.cross_entropy(network(x), y))
    moved = copy.deepcopy(searcher.alpha)
    groups = [{"params": network.parameters()}, {"params": searcher.selector.alpha}]
    optimizer = torch.optim.SGD(groups, 0.1, weight_decay=0.1)
    with pytest.raises(ValueError, match="alpha is in this SGD too: the Searcher alone trains it"):
        optimizer.step()
    assert searcher.alpha == moved != before


def test_optimizers_of_others_are_left_alone():
    """Of the weights, of another searcher, and of whatever is there when a searcher is gone."""
    network, searcher = make()
    _, other = make()
    x, y = batches()[0]
    for one in (searcher, other):
        one.alpha_step(lambda one=one: F.cross_entropy(one._network.model(x), y))
    torch.optim.SGD(network.parameters(), 0.1).step()
    alpha = searcher.selector.alpha
    hooks = len(_global_optimizer_pre_hooks)
    del searcher, one
    gc.collect()
    assert len(_global_optimizer_pre_hooks) == hooks - 1
    torch.optim.SGD(alpha, 0.1).step()


def penalised(network, weight, x, y):
    """A loss with the squared norm of the scores' gradient in x."""
    x = x.clone().requires_grad_()
    scores = network(x)
    (slope,) = torch.autograd.grad(scores.square().sum(), x, create_graph=True)
    return F.cross_entropy(scores, y) + weight * slope.square().mean()


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_penalty_counts_in_an_alpha_step(fused):
    torch.manual_seed(0)
    mixed = MixedOp.named(tuple(CANDIDATES), 4, 1, fused=fused).double()
    network = nn.Sequential(mixed, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    searcher = Searcher(network, Config(estimator="soft", boost_top_k=0))
    x, y = torch.randn(3, 4, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 3])
    twin, seen = copy.deepcopy(network), []

    def loss(weight):
        seen.append((mixed.plan.weights.detach(), searcher.selector.effective_temperature("search")))
        return penalised(network, weight, x, y)

    found = []
    for weight in (0.0, 100.0, 1e4):
        searcher.alpha_step(lambda weight=weight: loss(weight))
        found.append(searcher.selector.alpha[0].grad.clone())
        weights, temperature = seen[-1]
        leaf = weights.double().requires_grad_()

        def plain(x, leaf=leaf):
            terms = [w * op(x) for w, op in zip(leaf, twin[0].ops.values(), strict=True)]
            return twin[1:](sum(terms))

        (cost,) = torch.autograd.grad(penalised(plain, weight, x, y), leaf)
        weights = leaf.detach()
        expected = weights * (cost - (weights * cost).sum()) / temperature
        torch.testing.assert_close(found[-1].double(), expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found[0], found[1], rtol=0.1)
    assert not torch.allclose(found[1], found[2], rtol=0.1)
    for name, buffer in network.named_buffers():  # once a forward pass, three passes
        torch.testing.assert_close(buffer, dict(twin.named_buffers())[name])


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_penalty_on_a_hard_sample_is_refused(fused):
    mixed = MixedOp.named(("skip_connect", "sep_conv_3x3", "max_pool_3x3"), 4, 1, fused=fused)
    network = nn.Sequential(mixed, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    searcher = Searcher(network, Config(estimator="straight_through"))
    x, y = torch.randn(3, 4, 5, 5), torch.tensor([0, 1, 3])
    with pytest.raises(RuntimeError, match=r'no second derivatives: .* Config\(estimator="soft"\)'):
        searcher.alpha_step(lambda: penalised(network, 1.0, x, y))
    searcher.alpha_step(lambda: F.cross_entropy(network(x), y))
    searcher.sample()
    penalised(network, 1.0, x, y).backward()  # of one path: no weights, and nothing left out
    weights = torch.tensor([0.0, 1.0, 0.0])
    x.requires_grad_()
    slopes = [
        torch.autograd.grad(y.square().sum(), x, create_graph=True)[0]
        for y in (mixed(x, weights, 1), mixed(x, weights), mixed(x, index=1))
    ]
    for slope in slopes[1:]:
        torch.testing.assert_close(slope, slopes[0])
