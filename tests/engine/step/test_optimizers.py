"""Optimizers: settings, learning rates over a run, state by name."""

import math

import pytest
import torch

from asose_fast.config import PhaseConfig
from asose_fast.engine.growth.grow import deepen
from asose_fast.engine.phases import plan
from asose_fast.engine.step.optimizers import (
    alpha_learning_rate,
    alpha_optimizer,
    learning_rate,
    load_named_state,
    named_state,
    weight_optimizer,
)
from asose_fast.engine.step.steps import weight_step
from asose_fast.training_config import OptimizerConfig
from tests.helpers import FEW, make_batch, make_network, make_selector

CONFIG = OptimizerConfig()
PHASES = plan(PhaseConfig())


def test_settings():
    sgd = weight_optimizer(CONFIG, make_network(FEW)).defaults
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"]) == (0.025, 0.9, 3e-4)
    adam = alpha_optimizer(make_selector().alpha, 0.01).defaults
    assert (adam["lr"], adam["betas"], adam["weight_decay"]) == (0.01, (0.5, 0.999), 0)


def test_one_cosine_spans_the_supernet_and_another_the_derived_network():
    rate = lambda phase, done: learning_rate(CONFIG, PHASES, PHASES[phase], done)  # noqa: E731
    assert rate(0, 0) == pytest.approx(0.025)
    assert rate(2, 40) == pytest.approx(0.013)  # half of the 80 epochs
    assert rate(1, 20) == pytest.approx(0.001 + 0.024 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(2, 80) == pytest.approx(0.001)
    assert rate(3, 80) == pytest.approx(0.025)
    assert rate(3, 90) == pytest.approx(0.0125)
    assert rate(3, 100) == pytest.approx(0.0)
    assert rate(1, 10) == pytest.approx(rate(0, 10))  # no jump between phases


def test_rate_of_alpha_follows_the_number_of_its_steps():
    assert alpha_learning_rate(CONFIG, 600) == pytest.approx(0.02)
    assert alpha_learning_rate(CONFIG, 10**6) == 3e-4
    assert alpha_learning_rate(CONFIG, 0) == alpha_learning_rate(CONFIG, 5) == 0.1
    assert alpha_learning_rate(OptimizerConfig(alpha_learning_rate=0.5), 600) == 0.5


def test_state_by_name_survives_growth():
    x, y = make_batch()
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(make_network(FEW))
    network, other = networks
    selector, weights = make_selector(FEW), weight_optimizer(CONFIG, network)
    alpha = alpha_optimizer(selector.alpha, 0.1)
    weight_step(network, weights, x, y, [3, 3, 3, 3])
    deepen(network, selector, weights, alpha, 1)
    for _ in range(2):  # the new block's gain is 0 in the first one, and so are the gradients of its candidate
        weight_step(network, weights, x, y, [3, 3, 2, 3, 3])
    state = named_state(weights, dict(network.named_parameters()))
    assert any(name.startswith("blocks.1.mixed.ops.sep_conv_3x3") for name in state)

    other.deepen(1)
    other.load_state_dict(network.state_dict())
    resumed = weight_optimizer(CONFIG, other)
    load_named_state(resumed, dict(other.named_parameters()), state)
    for one, optimizer in ((network, weights), (other, resumed)):
        weight_step(one, optimizer, x, y, [2, 3, 3, 3, 1])
    for (name, a), b in zip(network.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_loaded_state_lies_where_its_parameter_does():
    """Scalars too, as the gains; but for Adam's count of steps, which stays on the host."""
    scalar = torch.zeros((), requires_grad=True)
    scalar.grad = torch.ones(())
    moved = torch.zeros((), device="meta", requires_grad=True)
    for kind in (torch.optim.Adam, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)):
        optimizer, other = kind([scalar]), kind([moved])
        optimizer.step()
        load_named_state(other, {"gain": moved}, named_state(optimizer, {"gain": scalar}))
        assert {k: v.device.type for k, v in other.state[moved].items()} == {
            k: "cpu" if k == "step" else "meta" for k in optimizer.state[scalar]
        }
