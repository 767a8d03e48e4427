"""Estimators of alpha's gradient: their formulas, their expectations by enumeration, what they run, whole searches."""

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from asose_fast.config import EstimatorConfig
from asose_fast.engine.alpha.estimators import ESTIMATORS, Draw, make_estimator
from asose_fast.engine.alpha.estimators.gumbel_rao import rao_weights
from asose_fast.engine.alpha.estimators.reinmax import reinmax_weights
from asose_fast.engine.state import SearchState
from asose_fast.engine.step.steps import alpha_step
from asose_fast.ops.noise import gumbel_noise
from tests.helpers import FEW, make_batch, make_config, make_network, make_selector, make_trainer, plain_forward

K, DRAWS = 4, 40_000
LOGITS = torch.tensor([0.3, -0.5, 0.8, 0.1], dtype=torch.float64)
LINEAR = torch.tensor([0.7, -1.1, 0.4, 1.9], dtype=torch.float64)
"""c of a loss <c, w>."""
SINGLE = ("gdas", "local_score")


def quadratic(w):
    """A loss that is not linear in the weights (n, K)."""
    return (w @ LINEAR) ** 2 + w @ LINEAR.roll(1)


def linear(w):
    return w @ LINEAR


def exact_gradient(loss):
    """Of E[loss] = sum_i p_i loss(e_i) over the K one-hot weights."""
    a = LOGITS.clone().requires_grad_()
    (a.softmax(0) * loss(torch.eye(K, dtype=torch.float64))).sum().backward()
    return a.grad


def estimates(name, loss, temperature=1.0, draws=DRAWS, seed=0):
    """Independent estimates (draws, K) of a single layer: every row of alpha is another draw of it."""
    selector = make_selector(FEW, 1, seed, temperature=temperature, temperature_floor=0.01)
    table = LOGITS.repeat(draws, 1).requires_grad_()
    selector.logits = lambda: table
    estimator = make_estimator(EstimatorConfig(estimator=name))
    draw = estimator.draw(selector, "growth")
    weights = draw.weights.double()
    loss(weights).sum().backward()
    estimator.finish(draw)
    if draw.kept is not None:
        kept = torch.zeros(draws, K).scatter(1, torch.tensor(draw.kept), 1.0)
        assert (draw.weights.detach()[kept == 0] == 0).all()
    return table.grad


def mean_and_error(rows):
    return rows.mean(0), rows.std(0) / len(rows) ** 0.5


@pytest.mark.parametrize(("name", "loss"), [("local_score", linear), ("reinmax", quadratic), ("reinmax", linear)])
def test_the_expectation_is_the_exact_gradient(name, loss):
    mean, error = mean_and_error(estimates(name, loss))
    assert ((mean - exact_gradient(loss)).abs() < 5 * error + 1e-3).all()


@pytest.mark.parametrize("name", ["straight_through", "gumbel_rao", "gdas", "soft"])
def test_biased_estimators_have_the_bias_that_their_formula_has(name):
    """At T = 0.5, against a quadrature of the formula over 400,000 noises of another generator."""
    temperature = 0.5
    noise = -torch.empty(400_000, K, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(5)).log()
    q = ((LOGITS + noise) / temperature).softmax(1)
    one_hot = F.one_hot(q.argmax(1), K).double()
    c = torch.func.vmap(torch.func.grad(lambda w: quadratic(w[None])[0]))(q if name == "soft" else one_hot)
    if name == "gdas":
        c = c * one_hot
    expected = (q * (c - (q * c).sum(1, keepdim=True)) / temperature).mean(0)
    mean, error = mean_and_error(plan_estimates(name, quadratic, temperature))
    assert ((mean - expected).abs() < 5 * error + 2e-3).all()
    assert (expected - exact_gradient(quadratic)).norm() > 0.02 * exact_gradient(quadratic).norm()


def plan_estimates(name, loss, temperature):
    """As `estimates`, with weights of operations that do not run held fixed, as the network does."""
    if name not in SINGLE:
        return estimates(name, loss, temperature)

    def seen(weights):
        return loss(torch.where(weights.detach() > 0, weights, weights.detach()))

    return estimates(name, seen, temperature)


def test_two_paths_have_the_expectation_of_their_enumeration():
    p = LOGITS.softmax(0)
    expected = torch.zeros(K, dtype=torch.float64)
    for i, j in itertools.permutations(range(K), 2):
        r = torch.stack([p[i], p[j]]) / (p[i] + p[j])
        c = LINEAR[[i, j]]
        expected[[i, j]] += p[i] * p[j] / (1 - p[i]) * r * (c - (r * c).sum())

    def seen(weights):  # only the two operations of a pair run; the others' weights are constants
        return linear(weights)

    mean, error = mean_and_error(estimates("two_path", seen))
    assert ((mean - expected).abs() < 5 * error + 1e-3).all()
    assert F.cosine_similarity(expected, exact_gradient(linear), dim=0) > 0.9


def test_gumbel_rao_has_less_variance_than_straight_through_and_the_same_mean():
    rao, plain = (estimates(name, quadratic, 0.3) for name in ("gumbel_rao", "straight_through"))
    assert rao.var(0).sum() < 0.8 * plain.var(0).sum()
    error = 5 * (rao.std(0) + plain.std(0)) / DRAWS**0.5
    assert ((rao.mean(0) - plain.mean(0)).abs() < error + 1e-3).all()


def test_the_baseline_lowers_the_variance_and_keeps_the_mean():
    selector = make_selector(FEW, 1, temperature=1.0, temperature_floor=0.01)
    table = LOGITS.repeat(DRAWS, 1).requires_grad_()
    selector.logits = lambda: table
    estimator = make_estimator(EstimatorConfig(estimator="local_score", baseline_momentum=0.0))
    gradients = []
    for _ in range(2):
        table.grad = None
        draw = estimator.draw(selector, "growth")
        (10 + linear(draw.weights.double())).sum().backward()
        estimator.baseline = None if not gradients else torch.full((DRAWS,), float(LINEAR.mean()))
        estimator.finish(draw)
        gradients.append(table.grad.clone())
    exact = exact_gradient(linear)
    for rows in gradients:
        mean, error = mean_and_error(rows)
        assert ((mean - exact).abs() < 5 * error + 1e-3).all()
    assert gradients[1].var(0).sum() < gradients[0].var(0).sum()


def test_a_single_draw_of_reinmax_is_its_formula():
    a, index, temperature = torch.randn(3, K, dtype=torch.float64), torch.tensor([2, 0, 1]), 1.7
    c = torch.randn(3, K, dtype=torch.float64)

    def jacobian(p):
        return p * (c - (p * c).sum(1, keepdim=True))

    middle = ((a / temperature).softmax(1) + F.one_hot(index, K)) / 2
    expected = 2 * jacobian(middle) - jacobian(a.softmax(1)) / 2
    logits = a.clone().requires_grad_()
    weights = reinmax_weights(logits, index, temperature)
    assert torch.equal(weights, F.one_hot(index, K).double())
    (c * weights).sum().backward()
    torch.testing.assert_close(logits.grad, expected)


def test_the_noise_of_gumbel_rao_is_that_of_draws_that_sample_the_same():
    """Perturbed logits have their maximum at the sampled operation, and the distribution that rejection gives."""
    a = LOGITS.repeat(1, 1).requires_grad_()
    noise = gumbel_noise(torch.tensor([1, 1]), DRAWS, K)
    index, temperature = torch.tensor([1]), 0.7
    weights = rao_weights(a, index, torch.exp(-noise).view(DRAWS, 1, K), temperature)
    assert weights.tolist() == [[0.0, 1.0, 0.0, 0.0]]
    (weights * LINEAR).sum().backward()
    other = gumbel_noise(torch.tensor([2, 1]), 8 * DRAWS, K)
    q = ((LOGITS + other) / temperature).softmax(1)
    q = q[q.argmax(1) == 1]
    rows = q * (LINEAR - (q * LINEAR).sum(1, keepdim=True)) / temperature
    mean, error = mean_and_error(rows)
    assert ((a.grad[0] - mean).abs() < 8 * error).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_alphas_gradient_is_the_formula_with_the_outputs_of_an_independent_forward(name):
    torch.manual_seed(0)
    network, (x, y) = make_network(FEW).double(), make_batch(dtype=torch.float64)
    selector = make_selector(FEW)
    for row in selector.alpha:
        row.data = row.data.double()
    draw = make_estimator(EstimatorConfig(estimator=name)).draw(selector, "growth")
    optimizer = torch.optim.SGD(selector.alpha, 0.0)

    leaf = draw.weights.detach().double().requires_grad_()
    mask = torch.ones_like(leaf)
    if draw.kept is not None:
        mask = torch.zeros_like(leaf).scatter(1, torch.tensor(draw.kept), 1.0)
    F.cross_entropy(plain_forward(network, x, leaf), y).backward()
    expected = torch.autograd.grad((draw.weights * (leaf.grad * mask)).sum(), selector.alpha, retain_graph=True)

    network.zero_grad()
    alpha_step(network, optimizer, x, y, draw)
    for row, gradient in zip(selector.alpha, expected, strict=True):
        torch.testing.assert_close(row.grad, gradient, rtol=1e-5, atol=1e-9)
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize(("name", "most"), [("gdas", 1), ("local_score", 1), ("two_path", 2), ("reinmax", len(FEW))])
def test_only_what_the_plan_keeps_is_run(name, most):
    network, (x, y) = make_network(FEW), make_batch()
    selector = make_selector(FEW)
    ran = []
    for layer, block in enumerate(network.evolvable_blocks()):
        block.mixed.fused = False
        for op in block.mixed.ops.values():
            op.register_forward_hook(lambda *_, layer=layer: ran.append(layer))
    draw = make_estimator(EstimatorConfig(estimator=name)).draw(selector, "search")
    alpha_step(network, torch.optim.SGD(selector.alpha, 0.0), x, y, draw)
    assert sorted(ran) == sorted(list(range(len(selector.alpha))) * most)


def test_a_kept_candidate_is_fused_as_any_other():
    torch.manual_seed(0)
    network, (x, _) = make_network(channels=8), make_batch(size=12)
    draw = make_estimator(EstimatorConfig(estimator="two_path")).draw(make_selector(), "growth")
    outputs = []
    for fused in (True, False):
        for block in network.evolvable_blocks():
            block.mixed.fused = fused
        outputs.append(network(x, draw.weights, draw.path, draw.kept))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name != "straight_through"])
def test_a_search_with_every_estimator_ends_and_resumes_to_the_same_bits(tmp_path, name):
    whole = make_trainer(tmp_path / "whole", estimator=name, growth_patience=1, growth_threshold=99.0, growth_epochs=2)
    whole.run()
    assert len(whole.state.history) == 6
    first = make_trainer(tmp_path / "first", estimator=name, growth_patience=1, growth_threshold=99.0, growth_epochs=2)
    states = []
    first._end_epoch = lambda phase, end=first._end_epoch: (
        end(phase),
        states.append(copy.deepcopy(first.state.state_dict())),
    )[0]
    first.run()
    again = make_trainer(tmp_path / "again", estimator=name, growth_patience=1, growth_threshold=99.0, growth_epochs=2)
    again.state.load_state_dict(states[2])
    again.run()
    for row, other in zip(whole.state.selector.alpha, again.state.selector.alpha, strict=True):
        assert torch.equal(row, other)
    ours, theirs = whole.state.network.state_dict(), again.state.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_soft_mixture_trains_all_weights_after_the_warmup():
    selector, estimator = make_selector(FEW), make_estimator(EstimatorConfig(estimator="soft"))
    assert estimator.mixture(selector, "warmup") is None
    mixture = estimator.mixture(selector, "search")
    assert not mixture.requires_grad
    torch.testing.assert_close(mixture.sum(1), torch.ones(4))
    assert (mixture > 0).all()


def test_the_baseline_belongs_to_one_process():
    class Several:
        count, rank = 2, 0

    task = SimpleNamespace(config=make_config(estimator="local_score"))
    with pytest.raises(ValueError, match="local_score runs in one process"):
        SearchState(task, Several())


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="gumbel_rao_samples must be at least 1"):
        make_config(gumbel_rao_samples=0)
    with pytest.raises(ValueError, match="baseline_momentum must be at least 0 and below 1"):
        make_config(baseline_momentum=1.0)
    assert isinstance(make_estimator(make_config()).draw(make_selector(), "search"), Draw)
