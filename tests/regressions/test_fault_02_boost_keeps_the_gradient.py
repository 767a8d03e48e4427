"""Fault 2: boosted logits were cloned outside autograd, so that boosted layers never learned."""

import torch

from asose_fast import ops
from asose_fast.engine.step.optimizers import alpha_optimizer
from tests.helpers import make_selector


def test_a_boosted_layer_learns_what_it_is_paid_for():
    selector = make_selector(layers=1)
    wanted = 7
    selector.alpha = [torch.linspace(0, 0.3, 10).roll(3).clone().requires_grad_()]  # undecided, led by none and others
    selector.alpha[0].data[0] = -2.0
    assert selector.monitor()[1].item() < 0.4
    assert selector.logits().argmax().item() != 3
    optimizer = alpha_optimizer(selector.alpha, 0.02)
    before = selector.logits().softmax(1)[0, wanted].item()
    for _ in range(100):
        optimizer.zero_grad()
        (-selector.sample("search").weights[0, wanted]).backward()
        assert selector.alpha[0].grad.abs().max() > 0
        optimizer.step()
    assert selector.logits().softmax(1)[0, wanted].item() > 2 * before


def test_the_gradient_does_not_depend_on_how_a_logit_came_to_its_height():
    """dL/da at a is dL/da' at a' = a + 0.5 mask, taken without a boost."""
    a = torch.tensor([[-2.0, 0.1, 0.2, 0.0, 0.3, 0.4, 0.25, 0.1, 0.2, 0.15]])
    mask = torch.zeros(1, 10)
    mask[0, [4, 5, 6]] = 1.0
    noise, grad = torch.randn(1, 10, dtype=torch.float64), torch.randn(1, 10)
    gradients = []
    for logits, boost in ((a, ops.Boost()), (a + 0.5 * mask, None)):
        leaf = logits.clone().requires_grad_()
        ops.arch_weights(leaf, 0.7, boost=boost, noise=noise).weights.backward(grad)
        gradients.append(leaf.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)
