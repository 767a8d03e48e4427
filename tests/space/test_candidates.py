"""The ten candidates: shapes, memory format, what they are made of, and the error about an unknown one."""

import pytest
import torch
from torch import nn

from asose_fast.config import CANDIDATES as NAMES
from asose_fast.space import CANDIDATES, build_candidate
from asose_fast.space.candidates import FactorizedReduce


def channels_last(*shape):
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


def test_the_order_is_that_of_the_logits():
    assert tuple(CANDIDATES) == NAMES
    assert NAMES.index("none") == 0
    assert NAMES.index("skip_connect") == 3


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (2, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_shape_and_memory_format(name, stride, size):
    for channels in (1, 2, 5):
        op = build_candidate(name, channels, stride)
        y = op(channels_last(3, channels, *size))
        assert y.shape == (3, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert y.isfinite().all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_stays_half(name, stride):
    op = build_candidate(name, 4, stride).bfloat16()
    assert op(channels_last(2, 4, 6, 6).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("avg_pool_3x3", ["AvgPool2d", "BatchNorm2d"]),
        ("max_pool_3x3", ["MaxPool2d", "BatchNorm2d"]),
        ("sep_conv_5x5", ["ReLU", "Conv2d", "Conv2d", "BatchNorm2d"] * 2),
        ("dil_conv_5x5", ["ReLU", "Conv2d", "Conv2d", "BatchNorm2d"]),
        ("conv_7x1_1x7", ["ReLU", "Conv2d", "Conv2d", "BatchNorm2d"]),
        ("nor_conv_3x3", ["ReLU", "Conv2d", "BatchNorm2d"]),
        ("res_conv_3x3", ["ReLU", "Conv2d", "BatchNorm2d"] * 2),
    ],
)
def test_parts(name, kinds):
    op = build_candidate(name, 6, 2)
    assert [type(m).__name__ for m in op] == kinds
    assert not any(m.affine for m in op if isinstance(m, nn.BatchNorm2d))
    assert not any(m.bias is not None for m in op if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize(
    ("name", "kernels", "dilations"),
    [
        ("sep_conv_3x3", [3, 1, 3, 1], [1, 1, 1, 1]),
        ("sep_conv_7x7", [7, 1, 7, 1], [1, 1, 1, 1]),
        ("dil_conv_3x3", [3, 1], [2, 1]),
        ("dil_conv_5x5", [5, 1], [2, 1]),
    ],
)
def test_convolutions(name, kernels, dilations):
    convolutions = [m for m in build_candidate(name, 6, 2) if isinstance(m, nn.Conv2d)]
    assert [c.kernel_size for c in convolutions] == [(k, k) for k in kernels]
    assert [c.dilation for c in convolutions] == [(d, d) for d in dilations]
    assert [c.groups for c in convolutions] == [6 if k > 1 else 1 for k in kernels]
    assert [c.stride for c in convolutions] == [(2, 2), *[(1, 1)] * (len(kernels) - 1)]


def test_none_is_zero_and_skip_is_the_identity():
    x = channels_last(2, 3, 5, 5)
    assert build_candidate("skip_connect", 3, 1)(x) is x
    assert torch.equal(build_candidate("none", 3, 1)(x), torch.zeros(2, 3, 5, 5))
    assert torch.equal(build_candidate("none", 3, 2)(x), torch.zeros(2, 3, 3, 3))


def test_average_pooling_does_not_count_the_padding():
    pool = build_candidate("avg_pool_3x3", 1, 1)[0]
    assert torch.equal(pool(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_strided_skip_sees_odd_and_even_pixels():
    op = FactorizedReduce(2)
    with torch.no_grad():
        op.even.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
        op.odd.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    op.norm = nn.Identity()
    x = torch.arange(50.0).view(1, 2, 5, 5)
    y = op(x)
    assert torch.equal(y[0, 0], x[0, 0, ::2, ::2])
    assert torch.equal(y[0, 1], torch.tensor([[6.0, 8.0, 0.0], [16.0, 18.0, 0.0], [0.0, 0.0, 0.0]]))


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown candidate 'sep_conv3x3': did you mean 'sep_conv_3x3'\?"):
        build_candidate("sep_conv3x3", 4, 1)
    with pytest.raises(ValueError, match=r"unknown candidate '\?\?': choose from none, avg_pool_3x3, "):
        build_candidate("??", 4, 1)
