"""The recipe's part in SGD and in the learning rate, against formulas written out."""

import math

import pytest
import torch
from torch import nn

from asose_fast.config import Config, PhaseConfig
from asose_fast.engine.phases import plan
from asose_fast.engine.retrainer import RetrainConfig
from asose_fast.engine.step.optimizers import learning_rate, of_derived, weight_optimizer
from asose_fast.training_config import OptimizerConfig, RecipeConfig

PHASES = plan(PhaseConfig())


def test_the_rate_of_the_derived_network_rises_and_falls():
    config = of_derived(Config(optimize_learning_rate=0.1))

    def rate(done):
        return learning_rate(config, PHASES, PHASES[3], done, 0.25)

    assert [rate(80 + epoch) for epoch in (0, 1, 4)] == pytest.approx([0.0, 0.02, 0.08])
    assert rate(85) == pytest.approx(0.1)
    assert rate(92.5) == pytest.approx(0.05)  # half of what is left after the rise
    assert rate(90) == pytest.approx(0.1 * (1 + math.cos(math.pi / 3)) / 2)
    assert rate(100) == pytest.approx(0.0)


def test_the_rise_is_not_of_the_supernet():
    config = Config(optimize_learning_rate=0.1)
    for phase, done in ((0, 0.0), (1, 20.0), (2, 79.5)):
        with_rise, without = (learning_rate(config, PHASES, PHASES[phase], done, share) for share in (0.5, 0.0))
        assert with_rise == without


def test_what_is_not_given_is_as_for_the_supernet():
    same = of_derived(Config(learning_rate=0.03, weight_decay=0.2))
    assert (same.learning_rate, same.weight_decay) == (0.03, 0.2)
    own = of_derived(Config(optimize_learning_rate=0.0, optimize_weight_decay=0.0))
    assert (own.learning_rate, own.weight_decay) == (0.0, 0.0)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_norms", [False, True])
def test_steps_of_the_optimizer(nesterov, decay_norms):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    config = OptimizerConfig(learning_rate=0.1, momentum=0.8, weight_decay=0.05)
    optimizer = weight_optimizer(config, network, RecipeConfig(nesterov=nesterov, decay_norms=decay_norms))
    expected = [p.detach().clone().double() for p in network.parameters()]
    momenta = [torch.zeros_like(p) for p in expected]
    for step in range(4):
        for i, p in enumerate(network.parameters()):
            gradient = torch.full_like(p, (step + 1) * (i - 1.5))
            p.grad = gradient
            whole = gradient.double() + (0.05 if decay_norms or i == 0 else 0.0) * expected[i]
            momenta[i] = 0.8 * momenta[i] + whole
            expected[i] = expected[i] - 0.1 * (whole + 0.8 * momenta[i] if nesterov else momenta[i])
        optimizer.step()
    for p, value in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach().double(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay_norms", [False, True])
def test_steps_of_adamw(decay_norms):
    """Both moments have their biases corrected, and the decay is apart from them (arXiv 1711.05101)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    config = OptimizerConfig(learning_rate=0.1, momentum=0.8, weight_decay=0.05)
    optimizer = weight_optimizer(config, network, RecipeConfig(optimizer="adamw", decay_norms=decay_norms))
    expected = [p.detach().clone().double() for p in network.parameters()]
    first, second = ([torch.zeros_like(p) for p in expected] for _ in range(2))
    for step in range(1, 5):
        for i, p in enumerate(network.parameters()):
            p.grad = torch.full_like(p, step * (i - 1.5))
            gradient = p.grad.double()
            first[i] = 0.8 * first[i] + 0.2 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient.square()
            expected[i] = expected[i] * (1 - 0.1 * (0.05 if decay_norms or i == 0 else 0.0))
            mean, variance = first[i] / (1 - 0.8**step), second[i] / (1 - 0.999**step)
            expected[i] = expected[i] - 0.1 * mean / (variance.sqrt() + 1e-8)
        optimizer.step()
    for p, value in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach().double(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [Config, RetrainConfig])
def test_adamw_whose_moment_never_decays_is_refused(settings):
    with pytest.raises(ValueError, match="adamw needs a momentum below 1"):
        settings(optimizer="adamw", momentum=1.0)


@pytest.mark.parametrize("settings", [Config, RetrainConfig])
def test_nesterov_without_momentum_is_refused(settings):
    with pytest.raises(ValueError, match="nesterov needs a momentum above 0, got 0"):
        settings(nesterov=True, momentum=0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"warmup_share": 1.0},
        {"ema_decay": 1.0},
        {"mixup": -0.1},
        {"cutmix": math.inf},
        {"mix_share": 1.1},
        {"auto_augment": "auto"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
@pytest.mark.parametrize("settings", [Config, RetrainConfig])
def test_values_out_of_bounds_are_refused(settings, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        settings(**wrong)


def test_settings_of_a_run_from_before_the_recipe():
    values = Config().to_dict()
    older = {name: value for name, value in values.items() if name not in ("ema_decay", "optimize_on", "cutout")}
    assert Config.from_dict(older) == Config()
    assert Config.completed({"ema_decay": 0.5})["ema_decay"] == 0.5
