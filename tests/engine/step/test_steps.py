"""One forward a step: loss, accuracy and counts from the same outputs; outputs of the wrong number."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asose_fast.engine.alpha.estimators import Draw
from asose_fast.engine.alpha.selector import Selector
from asose_fast.engine.step.meter import Meter
from asose_fast.engine.step.optimizers import weight_optimizer
from asose_fast.engine.step.steps import alpha_step, frozen, parameters_of, weight_step
from tests.helpers import CPU, FEW, make_batch, make_config, make_network

PATH = [3, 3, 2, 3]


def test_a_step_runs_forward_once_and_reports_what_it_saw():
    network = make_network(FEW)
    x, y = make_batch()
    scores = copy.deepcopy(network)(x, path=PATH)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    result = weight_step(network, weight_optimizer(make_config(), network), x, y, PATH)
    assert len(calls) == 1
    torch.testing.assert_close(result.loss, F.cross_entropy(scores, y).detach())
    assert result.correct.item() == (scores.argmax(1) == y).sum().item()
    assert (result.images, result.size_error) == (len(y), False)
    assert not result.loss.requires_grad


def test_the_gradient_is_clipped_before_the_update():
    moved = []
    for clip in (0.0, 1e-3):
        torch.manual_seed(0)
        network = make_network(FEW)
        before = nn.utils.parameters_to_vector(network.parameters()).detach()
        optimizer = torch.optim.SGD(network.parameters(), 1.0)
        weight_step(network, optimizer, *make_batch(), PATH, clip=clip)
        moved.append((nn.utils.parameters_to_vector(network.parameters()) - before).norm().item())
    assert moved[0] > 0.1
    assert moved[1] == pytest.approx(1e-3, rel=0.05)


def test_the_check_sees_the_loss_before_the_weights_change():
    network = make_network(FEW)
    before = copy.deepcopy(network.state_dict())

    def refuse(loss):
        raise RuntimeError(f"saw {loss.item()}")

    with pytest.raises(RuntimeError, match="saw"):
        weight_step(network, weight_optimizer(make_config(), network), *make_batch(), PATH, check=refuse)
    names = dict(network.named_parameters())
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in names)


class Short(nn.Module):
    """A user's model that loses the last outputs, or has some too many."""

    def __init__(self, extra):
        super().__init__()
        self.extra = extra
        self.linear = nn.Linear(27, 5)

    def forward(self, x):
        scores = self.linear(x.flatten(1))
        return scores[: self.extra] if self.extra < 0 else torch.cat([scores, scores[: self.extra]])


@pytest.mark.parametrize(("extra", "images"), [(-2, 4), (3, 6)])
def test_outputs_of_the_wrong_number_are_trimmed_warned_about_and_counted(extra, images):
    model, meter = Short(extra), Meter(CPU)
    x, y = make_batch(images=6, size=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    expected = F.cross_entropy(model.linear(x.flatten(1))[:images], y[:images]).item()
    with pytest.warns(RuntimeWarning, match=f"returned {6 + extra} outputs for 6 targets; both are trimmed"):
        result = weight_step(model, optimizer, x, y, None)
    assert result.loss.item() == pytest.approx(expected)
    assert result.images == images
    meter.add(result)
    assert (meter.size_errors, meter.images) == (1, images)
    assert meter.read()[0] == pytest.approx(expected)


def test_meter_weighs_batches_by_their_images():
    network, meter = make_network(FEW), Meter(CPU)
    assert math.isnan(meter.read()[0])
    optimizer = weight_optimizer(make_config(), network)
    results = [weight_step(network, optimizer, *make_batch(images=n), PATH) for n in (6, 2)]
    for result in results:
        meter.add(result)
    assert meter.read()[0] == pytest.approx((6 * results[0].loss.item() + 2 * results[1].loss.item()) / 8)
    assert meter.read()[1] == sum(r.correct.item() for r in results) / 8
    other = Meter(CPU)
    other.load_state_dict(copy.deepcopy(meter.state_dict()))
    assert other.read() == meter.read()
    other.add(results[0])
    assert other.images == 14
    assert meter.images == 8


def test_a_regularizer_adds_its_gradient_to_alpha_and_not_to_the_loss():
    def gradient(*regularizers):
        torch.manual_seed(0)
        network = make_network(FEW)
        selector = Selector(make_config(), FEW, len(network.blocks), 0, CPU)
        sampled = selector.sample("search")
        optimizer = torch.optim.SGD(selector.alpha, 0.0)
        terms = [lambda r=r: r(selector.logits()) for r in regularizers]
        result = alpha_step(
            network, optimizer, *make_batch(), Draw(sampled.weights, sampled.index.tolist()), regularizers=terms
        )
        return result.loss, torch.stack([row.grad for row in selector.alpha])

    loss, plain = gradient()
    same_loss, regularized = gradient(torch.sum, lambda logits: 2 * logits.sum())
    assert torch.equal(loss, same_loss)
    torch.testing.assert_close(regularized, plain + 3)


def test_the_parameters_of_a_module_are_those_of_pytorch_each_once():
    shared = nn.Linear(2, 2)
    module = nn.Sequential(shared, nn.Sequential(shared, nn.Linear(2, 2, bias=False)), nn.ReLU())
    module[2].weight = module[0].weight
    module.add_module("absent", None)
    found = parameters_of(module)
    assert len(found) == 3
    assert set(map(id, found)) == set(map(id, module.parameters()))
    module[1][1].requires_grad_(False)
    with frozen(module):
        assert not any(p.requires_grad for p in module.parameters())
    assert [p.requires_grad for p in module.parameters()] == [True, True, False]
