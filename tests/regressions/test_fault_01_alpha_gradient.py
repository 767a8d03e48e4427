"""Fault 1: hard sampling returned the chosen operation unmultiplied, and alpha got no gradient in any step."""

import copy

import pytest
import torch

from asose_fast import ops
from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.step import graphs
from asose_fast.engine.step.optimizers import alpha_optimizer
from asose_fast.engine.step.steps import alpha_step
from tests.helpers import make_batch, make_network, make_selector, make_trainer, plain_loss

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
UNDECIDED = torch.tensor(
    [
        [0.1, 0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.2, 0.1],  # boosted
        [0.9, 0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.2, 0.1],  # boosted, but for none, which leads
        [0.1, 0.0, 0.2, 1.0, 0.4, 0.5, 0.6, 0.7, 0.2, 0.1],  # skip leads: as it is
        [0.1, 0.0, 0.2, 0.3, 0.4, 4.0, 0.6, 0.7, 0.2, 0.1],  # decided: as it is
    ]
)
BOOSTED = [[5, 6, 7], [6, 7], [], []]


def expected_gradients(network, alpha, noise, temperature, hard, boosted, x, y):
    """In float64 and plain PyTorch, from the formulas."""
    network = copy.deepcopy(network).double()
    alpha = alpha.detach().double().requires_grad_()
    mask = torch.zeros_like(alpha)
    for layer, leading in enumerate(boosted):
        mask[layer, leading] = 0.5
    scores = alpha + mask + noise
    weights = (scores / temperature).exp()
    weights = weights / weights.sum(1, keepdim=True)
    if hard:
        one_hot = torch.zeros_like(scores).scatter(1, scores.argmax(1, keepdim=True), 1.0)
        weights = one_hot + weights - weights.detach()
    return torch.autograd.grad(plain_loss(network, x.double(), y, weights), alpha)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("phase", ["search", "growth"])
def test_gradient_of_alpha_is_that_of_the_formula(dtype, hard, phase):
    network = make_network().to(dtype).train()
    selector = make_selector()
    selector.alpha = [row.to(dtype).clone().requires_grad_() for row in UNDECIDED]
    x, y = make_batch(dtype=dtype)
    noise = ops.gumbel_noise(selector.rng, 4, 10)
    temperature = 1.5
    boosted = BOOSTED if phase == "search" else [[]] * 4
    expected = expected_gradients(network, UNDECIDED, noise, temperature, hard, boosted, x, y)

    sampled = selector.sample(phase, hard=hard)
    path = sampled.index.tolist() if hard else None
    alpha_step(network, alpha_optimizer(selector.alpha, 0.0), x, y, Draw(sampled.weights, path))

    for layer, row in enumerate(selector.alpha):
        assert expected[layer].abs().max() > 1e-6
        error = (row.grad.double() - expected[layer]).abs().max()
        assert error <= TOLERANCE[dtype] * expected[layer].abs().max(), f"layer {layer}"


def test_every_layer_has_a_gradient_in_every_alpha_step_of_a_run(tmp_path, monkeypatch):
    seen = []

    def recorded(network, optimizer, *arguments, **keywords):
        before = [row.detach().clone() for row in trainer.state.selector.alpha]
        result = alpha_step(network, optimizer, *arguments, **keywords)
        assert all(row.grad.abs().max() > 0 for row in trainer.state.selector.alpha)
        assert not any(torch.equal(row, old) for row, old in zip(trainer.state.selector.alpha, before, strict=True))
        seen.append(trainer.state.progress.phase)
        return result

    monkeypatch.setattr(graphs, "alpha_step", recorded)
    # `none` among them: sampled where the resolution falls, it must not cut the gradient of the layers below.
    trainer = make_trainer(tmp_path, candidates=("none", "skip_connect", "sep_conv_3x3"), depth=4, alpha_none=2.0)
    trainer.run()
    assert seen == ["search"] * 5 + ["growth"] * 2
