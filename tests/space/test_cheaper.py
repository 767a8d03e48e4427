"""Cheaper convolutions begin with the best weights of their kind."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from asose_fast.space import cheaper
from asose_fast.space.cheaper import CHEAPER, is_convolution

KINDS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
SIDES = {1: (9,), 2: (9, 11), 3: (7, 8, 9)}


def make(axes=2, channels=(8, 12), kernel=3, dtype=torch.float64, **settings):
    torch.manual_seed(0)
    return KINDS[axes](*channels, kernel, dtype=dtype, **settings)


def batch(conv):
    return torch.randn(2, conv.in_channels, *SIDES[len(conv.kernel_size)], dtype=conv.weight.dtype)


def joined(pair):
    """The weights of one convolution that computes what a convolution and a pointwise one after it do."""
    first, second = pair
    weight = first.weight
    if first.groups > 1:  # depthwise
        weight = (
            torch.diag_embed(weight[:, 0].flatten(1).T)
            .movedim(0, 2)
            .reshape(len(weight), len(weight), *weight.shape[2:])
        )
    return torch.einsum("om,mi...->oi...", second.weight.flatten(1), weight)


@pytest.mark.parametrize("name", CHEAPER)
@pytest.mark.parametrize(
    ("axes", "settings"),
    [
        (1, {"padding": 1}),
        (2, {"padding": 1, "stride": 2, "bias": False}),
        (2, {"padding": 2, "dilation": 2, "padding_mode": "reflect"}),
        (2, {"padding": "same", "kernel": (3, 5)}),
        (2, {"padding": (0, 3), "kernel": (1, 7)}),
        (2, {"padding": 3, "kernel": 7, "stride": 2}),
        (3, {"padding": 1}),
    ],
)
def test_shape_and_cost(name, axes, settings):
    conv = make(axes, **settings)
    kept, random = copy.deepcopy(conv.state_dict()), torch.get_rng_state()
    op = CHEAPER[name](conv)
    assert torch.equal(torch.get_rng_state(), random)
    x = batch(conv)
    assert op(x).shape == conv(x).shape
    assert sum(p.numel() for p in op.parameters()) < sum(p.numel() for p in conv.parameters())
    assert all(p.dtype == torch.float64 and p.requires_grad for p in op.parameters())
    op(x).sum().backward()
    for p in op.parameters():
        p.data += 1
    assert all(torch.equal(conv.state_dict()[key], value) for key, value in kept.items())


@pytest.mark.parametrize(
    "settings", [{"padding": 1}, {"padding": "same", "kernel": 5}, {"padding": (2, 1), "kernel": (5, 4)}]
)
def test_smaller_is_the_centre(settings):
    conv = make(**settings)
    x, op = batch(conv), cheaper.smaller(conv)
    assert op.kernel_size == tuple(k - 2 for k in conv.kernel_size)
    inner = torch.zeros_like(conv.weight)
    inner[:, :, 1:-1, 1:-1] = conv.weight[:, :, 1:-1, 1:-1]
    conv.weight.data = inner
    torch.testing.assert_close(op(x), conv(x))


def test_smaller_keeps_groups():
    conv = make(channels=(8, 8), padding=1, groups=8)
    assert cheaper.smaller(conv).groups == 8


def test_separable_is_exact_where_it_can_be_and_else_the_nearest():
    conv = make(padding=1)
    taps, mixing = torch.randn(8, 3, 3, dtype=torch.float64), torch.randn(12, 8, dtype=torch.float64)
    conv.weight.data = mixing[:, :, None, None] * taps
    x = batch(conv)
    torch.testing.assert_close(cheaper.separable(conv)(x), conv(x))
    conv = make(padding=1)
    lost = (joined(cheaper.separable(conv)) - conv.weight).square().sum()
    values = torch.linalg.svdvals(conv.weight.flatten(2).transpose(0, 1))
    torch.testing.assert_close(lost, values[:, 1:].square().sum())


def test_bottleneck_is_exact_where_it_can_be_and_else_the_nearest():
    conv = make(padding=1, stride=2)
    conv.weight.data = torch.einsum(
        "or,rikl->oikl", *(torch.randn(*s, dtype=torch.float64) for s in ((12, 3), (3, 8, 3, 3)))
    )
    x = batch(conv)
    torch.testing.assert_close(cheaper.bottleneck(conv)(x), conv(x))
    conv = make(padding=1)
    lost = (joined(cheaper.bottleneck(conv)) - conv.weight).square().sum()
    torch.testing.assert_close(lost, torch.linalg.svdvals(conv.weight.flatten(1))[3:].square().sum())


@pytest.mark.parametrize(("channels", "groups"), [((8, 12), 4), ((6, 4), 2)])
def test_grouped_is_block_diagonal(channels, groups):
    conv = make(channels=channels, padding=1)
    op, x = cheaper.grouped(conv), batch(conv)
    assert op.groups == groups
    for i, (inputs, outputs) in enumerate(zip(x.chunk(groups, 1), op(x).chunk(groups, 1), strict=True)):
        weight, bias = conv.weight.chunk(groups)[i].chunk(groups, 1)[i], conv.bias.chunk(groups)[i]
        torch.testing.assert_close(outputs, F.conv2d(inputs, weight, bias, padding=1))


@pytest.mark.parametrize("name", ["separable", "bottleneck"])
def test_weights_of_zero_give_zeros(name):
    conv = make(padding=1, bias=False)
    nn.init.zeros_(conv.weight)
    assert CHEAPER[name](conv)(batch(conv)).abs().max() == 0


@pytest.mark.parametrize("name", CHEAPER)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types(name, dtype):
    conv = make(padding=1, dtype=dtype)
    op = CHEAPER[name](conv)
    assert {p.dtype for p in op.parameters()} == {dtype}


def test_what_does_not_fit_is_none():
    depthwise = make(channels=(8, 8), groups=8, padding=1)
    assert [name for name, op in CHEAPER.items() if op(depthwise) is None] == ["separable", "grouped", "bottleneck"]
    assert cheaper.smaller(make(kernel=2)) is None
    assert cheaper.smaller(make(padding=0)) is None
    assert cheaper.smaller(make(padding="valid")) is None
    assert cheaper.grouped(make(channels=(3, 8))) is None
    assert cheaper.bottleneck(make(channels=(8, 3))) is None


def test_what_is_a_convolution():
    hooked = make()
    hooked.register_forward_hook(lambda *_: None)
    assert all(map(is_convolution, map(make, KINDS)))
    assert not any(map(is_convolution, [hooked, nn.Linear(2, 2), nn.ConvTranspose2d(2, 2, 3), None]))
    assert not is_convolution(nn.utils.parametrizations.weight_norm(make()))
