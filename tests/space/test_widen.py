"""Net2Wider: channel maps, gradients, noise, and modules that are not known."""

import copy
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asose_fast.space import Network
from asose_fast.space import channels as channels_module
from asose_fast.space.channels import CannotWidenError, ChannelMap
from asose_fast.space.widen import widen
from tests.growth_cases import random_spec, randomize
from tests.helpers import FEW, OF_BLOCKS, make_batch, make_network


@pytest.mark.parametrize("old", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("more", [1, 2, 3, 8, 9, 30])
def test_channels_repeat_in_turn_and_halves_stay_apart(old, more):
    channels = ChannelMap.halves(old, old + more)
    assert channels.new == old + more
    counts = torch.bincount(channels.source, minlength=old)
    assert counts.min() >= 1
    assert torch.equal(channels.replicas, counts[channels.source])
    assert (channels.source[: channels.new // 2] < old // 2).all()
    assert (channels.source[channels.new // 2 :] >= old // 2).all()
    for half in (counts[: old // 2], counts[old // 2 :]):
        assert half.max() - half.min() <= 1


def loss_gradients(network, x, y, weights):
    loss = F.cross_entropy(network(x, weights), y)
    return torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("factor", [1.3, 2, 3])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("space", OF_BLOCKS)
def test_gradients_transform_as_said(space, seed, factor, training):
    torch.manual_seed(seed)

    network = randomize(Network(random_spec(random.Random(seed), space))).double().train(training)
    x = torch.randn(4, network.spec.in_channels, 7, 7, dtype=torch.float64)
    y = torch.arange(4) % network.spec.classes
    weights = torch.rand(len(network.blocks), len(network.spec.blocks[0].candidates), dtype=torch.float64).softmax(1)
    names = {p: name for name, p in network.named_parameters()}
    gradients = dict(zip(names.values(), loss_gradients(network, x, y, weights), strict=True))
    for stage, channels in enumerate(network.spec.widths):
        for replaced in widen(network, stage, max(channels + 1, round(factor * channels))):
            names[replaced.new] = name = names.pop(replaced.old)
            gradients[name] = replaced.as_gradient(gradients[name])
    got = loss_gradients(network, x, y, weights)
    largest = max(g.abs().max() for g in got)
    assert largest > 0
    for (name, _), gradient in zip(network.named_parameters(), got, strict=True):
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-9, atol=1e-11 * float(largest), msg=name)


def trained(noise):
    """Relative distance of the two replicas of each channel of a depthwise convolution after three steps."""
    torch.manual_seed(0)
    network = make_network(("sep_conv_3x3",), depth=3).double()
    x, y = make_batch(dtype=torch.float64)
    before = network(x).detach()
    widen(network, 0, 8, noise=noise)
    torch.testing.assert_close(network(x), before, rtol=1e-12, atol=1e-14)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()
    weight = network.blocks[0].mixed.ops["sep_conv_3x3"][1].weight.detach()
    halves = weight.unflatten(0, (2, 2, 2))  # half, replica, channel
    return float((halves[:, 0] - halves[:, 1]).norm() / weight.norm())


def test_replicas_part_with_noise_alone():
    assert trained(0.0) < 1e-14
    assert trained(0.3) > 1e-4


def test_parameters_keep_their_settings_and_layout():
    network = make_network(depth=3).to(memory_format=torch.channels_last)
    network.stem[0].weight.requires_grad_(False)
    shapes = {name: t.shape for name, t in network.state_dict().items()}
    replaced = widen(network, 1, 11)
    assert not network.stem[0].weight.requires_grad
    for name, p in network.named_parameters():
        assert p.dim() != 4 or p.is_contiguous(memory_format=torch.channels_last), name
    changed = {name for name, t in network.state_dict().items() if t.shape != shapes[name]}
    assert {name.split(".")[0] for name in changed} == {"blocks", "head"}
    assert not any(name.startswith("blocks.0") for name in changed)
    live = {id(p) for p in network.parameters()}
    assert all(id(r.new) in live and id(r.old) not in live for r in replaced)
    network.stem[0].weight.requires_grad_(False)
    widen(network, 0, 6)
    assert not network.stem[0].weight.requires_grad


class Tanh(nn.Module):
    """A user's candidate."""

    def forward(self, x):
        return x.tanh()


def with_users_module(module):
    network = make_network(FEW, depth=3)
    for block in network.blocks:
        block.mixed.ops["max_pool_3x3"] = copy.deepcopy(module)
    return network


def grouped():
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Tanh(), r"cannot widen blocks\.0\.mixed\.ops\.max_pool_3x3: Tanh has no rule .* asose_fast\.space\.channels"),
        (grouped(), r"cannot widen blocks\.0\.mixed\.ops\.max_pool_3x3: a convolution of 2 groups is neither"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), "ParametrizedConv2d has no rule"),
    ],
)
def test_unknown_modules_are_named_and_nothing_changes(module, message):
    network = with_users_module(module)
    spec, state = network.spec, {name: t.clone() for name, t in network.state_dict().items()}
    with pytest.raises(CannotWidenError, match=message):
        widen(network, 0, 7)
    assert network.spec == spec
    assert all(torch.equal(t, state[name]) for name, t in network.state_dict().items())
    with pytest.raises(CannotWidenError, match="cannot widen"):
        widen(network, 1, 16)


def test_a_rule_makes_a_module_known(monkeypatch):
    monkeypatch.setitem(channels_module.RULES, Tanh, lambda module, entering, wanted: ([], entering))
    network = with_users_module(Tanh()).double()
    x = make_batch(dtype=torch.float64)[0]
    block = network.blocks[0]
    before = block(network.stem(x), index=2)
    widen(network, 0, 7)
    after = block(network.stem(x), index=2)
    torch.testing.assert_close(after, before[:, ChannelMap.halves(4, 7).source])


def test_affine_norms_and_biases_are_widened():
    def op(channels, stride):
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels),
            nn.BatchNorm2d(channels, track_running_stats=False),
        )

    network = make_network(FEW, depth=3)
    for block in network.evolvable_blocks():
        block.mixed.ops["sep_conv_3x3"] = op(block.spec.in_channels, block.spec.stride)
    randomize(network.double()).eval()
    x = make_batch(dtype=torch.float64)[0]
    before = network(x, path=[3, 3, 3])
    for stage, channels in ((0, 7), (1, 9)):
        widen(network, stage, channels, noise=0.2)
    torch.testing.assert_close(network(x, path=[3, 3, 3]), before, rtol=1e-11, atol=1e-13)


def test_one_channel():
    """The even half of a FactorizedReduce of one channel is empty; everything else can be widened."""
    network = make_network(FEW, channels=1)
    with pytest.raises(CannotWidenError, match="a FactorizedReduce of one channel has an empty half"):
        widen(network, 0, 2)
    others = tuple(name for name in FEW if name != "skip_connect")
    network = randomize(make_network(others, channels=1).double()).eval()
    x = make_batch(dtype=torch.float64)[0]
    before = network(x, path=[2, 2, 1, 2])
    widen(network, 0, 3)
    torch.testing.assert_close(network(x, path=[2, 2, 1, 2]), before, rtol=1e-11, atol=1e-13)
