"""What the optimizers hold follows a growth, and the next step is the ungrown network's, where that can be."""

import copy

import pytest
import torch
from torch.nn import functional as F

from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.growth.grow import add_candidate, deepen, widen
from asose_fast.engine.step.optimizers import alpha_optimizer, weight_optimizer
from asose_fast.engine.step.steps import alpha_step, weight_step
from asose_fast.space.widen import widen as widen_network
from tests.growth_cases import randomize
from tests.helpers import FEW, make_batch, make_config, make_network, make_selector

NAMES = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3", "conv_7x1_1x7")
PATHS = [[3, 1, 5, 4], [5, 3, 3, 1], [4, 5, 1, 3]]


class Search:
    """A search in the middle: there is momentum, and Adam has taken steps. Always the same."""

    def __init__(self, weight_decay=3e-4, names=NAMES):
        torch.manual_seed(0)
        self.config = make_config(weight_decay=weight_decay)
        self.network = randomize(make_network(names).double())
        self.selector = make_selector(names, opening_steps=3)
        self.selector.alpha = [row.detach().double().requires_grad_() for row in self.selector.alpha]
        self.weights = weight_optimizer(self.config, self.network)
        self.alpha = alpha_optimizer(self.selector.alpha, 0.1)
        self.x, self.y = make_batch(dtype=torch.float64)
        if names is NAMES:
            for path in PATHS:
                self.weight_step(path)
                self.alpha_step()

    @property
    def parts(self):
        return self.network, self.selector, self.weights, self.alpha

    def weight_step(self, path):
        weight_step(self.network, self.weights, self.x, self.y, path)

    def alpha_step(self):
        sampled = self.selector.sample("growth")
        alpha_step(self.network, self.alpha, self.x, self.y, Draw(sampled.weights, sampled.index.tolist()))

    def named(self):
        return {name: p.detach().clone() for name, p in self.network.named_parameters()}


def moved(search, path):
    """The parameters before and after a step."""
    before = search.named()
    search.weight_step(path)
    return before, search.named()


@pytest.mark.parametrize("position", range(5))
def test_the_step_after_a_deeper_growth_is_the_one_it_would_have_been(position):
    old, new = Search(), Search()
    objects = dict(new.network.named_parameters())
    deepen(*new.parts, position)
    path = PATHS[0]
    old.weight_step(path)
    new.weight_step([*path[:position], 3, *path[position:]])
    for name, expected in old.network.named_parameters():
        torch.testing.assert_close(objects[name], expected, rtol=1e-9, atol=1e-12)
    assert new.network.blocks[position].gain != 0


def test_the_alpha_step_after_a_deeper_growth_is_the_one_it_would_have_been():
    old, new = Search(), Search()
    deepen(*new.parts, 4)
    for search in (old, new):
        search.alpha_step()
    for expected, got in zip(old.selector.alpha, new.selector.alpha[:4], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_the_steps_after_a_branch_growth_are_the_ones_they_would_have_been(path):
    old, new = Search(), Search()
    add_candidate(*new.parts, "sep_conv_5x5")
    added = {name: p.clone() for name, p in new.network.named_parameters() if "sep_conv_5x5" in name}
    assert added
    for search in (old, new):
        search.weight_step(path)
        search.alpha_step()
    names = dict(new.network.named_parameters())
    for name, expected in old.network.named_parameters():
        torch.testing.assert_close(names[name], expected, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(names[name], p) for name, p in added.items())
    for expected, got in zip(old.selector.alpha, new.selector.alpha, strict=True):
        torch.testing.assert_close(got[:-1], expected, rtol=1e-9, atol=1e-12)


def test_adam_takes_no_long_step_on_a_new_logit():
    search = Search()
    add_candidate(*search.parts, "sep_conv_5x5")
    for row in search.selector.alpha:
        state = search.alpha.state[row]
        assert state["step"] == 3
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == row.shape
        assert state["exp_avg"][-1] == 0
        torch.testing.assert_close(state["exp_avg_sq"][-1], state["exp_avg_sq"][:-1].mean())
    for _ in range(3):
        search.selector.cool()
    assert not search.selector.opening
    before = [row.detach().clone() for row in search.selector.alpha]
    search.alpha_step()
    for row, old in zip(search.selector.alpha, before, strict=True):
        assert (row - old).abs().max() < 0.3  # three times the learning rate


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("factor", [1.5, 2])
def test_the_step_of_a_wider_network_is_that_of_the_old_one_transformed_as_gradients_are(factor, path):
    """Momentum included, weight decay not."""
    old, new, transform = Search(weight_decay=0.0), Search(weight_decay=0.0), {}
    for stage, channels in enumerate(new.network.spec.widths):
        for name, as_gradient in grown_wider(new, stage, round(factor * channels)):
            transform.setdefault(name, []).append(as_gradient)
    assert {"stem.0.weight", "head.4.weight", "blocks.1.project.1.weight"} <= transform.keys()
    before, after = moved(old, path)
    wide_before, wide_after = moved(new, path)
    for name in before:
        expected = after[name] - before[name]
        for as_gradient in transform.get(name, []):
            expected = as_gradient(expected)
        torch.testing.assert_close(wide_after[name] - wide_before[name], expected, rtol=1e-7, atol=1e-12, msg=name)


def grown_wider(search, stage, channels):
    """Grows; yields (name, transformation of gradients) of what was replaced."""
    twin = copy.deepcopy(search.network)
    names = {p: name for name, p in twin.named_parameters()}
    widen(search.network, search.weights, stage, channels)
    for replaced in widen_network(twin, stage, channels):
        yield names[replaced.old], replaced.as_gradient


def test_doubling_every_stage_and_a_step_can_change_places_where_mathematics_allows():
    """Weight decay included: dense convolutions inside and between stages, gains, the classifier's bias."""
    old, new = Search(), Search()
    double(new)
    old.weight_step(PATHS[0])
    new.weight_step(PATHS[0])
    untouched = Search().named()
    trained = {name for name, p in old.named().items() if not torch.allclose(p, untouched[name], rtol=0, atol=1e-9)}
    double(old)
    pairs = {name: (old.named()[name], new.named()[name]) for name in trained}
    agree = {name for name, pair in pairs.items() if torch.allclose(*pair, rtol=1e-8, atol=1e-12)}
    shapes = {name: p.shape for name, p in old.network.named_parameters()}
    dense = {name for name in trained if name != "stem.0.weight" and len(shapes[name]) == 4 and shapes[name][1] > 1}
    expected = dense | {name for name in trained if name.endswith("gain")} | {"head.4.bias"}
    assert len(dense) >= 6
    assert agree == expected
    assert {"stem.0.weight", "head.0.weight", "head.4.weight"} <= trained - agree


def double(search):
    for stage, channels in enumerate(search.network.spec.widths):
        widen(search.network, search.weights, stage, 2 * channels)


@pytest.mark.parametrize("kind", ["deeper", "wider", "branch"])
def test_optimizers_hold_exactly_the_parameters_and_train_them(kind):
    search = Search()
    counted = sum(len(state) > 0 for state in search.weights.state.values())
    grow = {
        "deeper": lambda: deepen(*search.parts, 2),
        "wider": lambda: widen(search.network, search.weights, 1, 11, noise=0.3),
        "branch": lambda: add_candidate(*search.parts, "sep_conv_7x7"),
    }
    grow[kind]()
    for optimizer, live in ((search.weights, list(search.network.parameters())), (search.alpha, search.selector.alpha)):
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert [id(p) for p in held] == [id(p) for p in live]
        assert {id(p) for p in optimizer.state} <= {id(p) for p in live}
        for p, state in optimizer.state.items():
            assert all(value.shape == p.shape for key, value in state.items() if key != "step" and value is not None)
    assert sum(len(state) > 0 for state in search.weights.state.values()) == counted
    rows = search.network.spec.blocks
    assert torch.stack(search.selector.alpha).shape == (len(rows), len(rows[0].candidates))
    before = search.named()
    search.weight_step([3] * len(rows))
    search.alpha_step()
    after = search.named()
    assert sum(not torch.equal(after[name], before[name]) for name in after) > 10


def test_a_new_candidate_is_trained_once_it_opens():
    search = Search(names=FEW)
    add_candidate(*search.parts, "dil_conv_3x3")
    before = search.named()
    for _ in range(3):
        search.selector.cool()
    search.weight_step([4] * 4)
    changed = {name for name, p in search.named().items() if not torch.equal(p, before[name])}
    assert sum("dil_conv_3x3" in name for name in changed) == 8
    rows = [row.detach().clone() for row in search.selector.alpha]
    search.alpha_step()
    assert all(row[-1] != old[-1] for row, old in zip(search.selector.alpha, rows, strict=True))


def test_the_loss_goes_on_as_it_was():
    """Three steps of a search, a growth of each kind, and the loss of the next batch is that of the ungrown network."""
    old, new = Search(), Search()
    widen(new.network, new.weights, 1, 13, noise=0.3)
    add_candidate(*new.parts, "sep_conv_5x5")
    deepen(*new.parts, 3)
    path = PATHS[1]
    expected = F.cross_entropy(old.network(old.x, path=path), old.y)
    got = F.cross_entropy(new.network(new.x, path=[*path[:3], 6, *path[3:]]), new.y)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)
