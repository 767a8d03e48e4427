"""The shortcut of a strided block is the mean of what is there, on kernels where these are faster."""

import pytest
import torch
from torch.nn import functional as F

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.space import shortcut
from asose_fast.space.block import BlockSpec, EvolvableBlock
from asose_fast.space.shortcut import LARGE


@pytest.fixture
def on_kernels(monkeypatch):
    """The shapes that the operator is called with."""
    seen = []

    def call(x):
        seen.append(tuple(x.shape))
        return ops.avg_pool_2x2(x)

    monkeypatch.setattr(shortcut, "avg_pool_2x2", call)
    return seen


@pytest.mark.parametrize("images", [31, 32])
def test_a_large_tensor_is_averaged_on_kernels(images, on_kernels):
    block = EvolvableBlock(BlockSpec(("skip_connect",), 16, 16, stride=2))
    x = torch.randn(images, 16, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
    large = x.numel() >= LARGE
    assert large == (images == 32)
    y, expected = block.shortcut(x), F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    assert on_kernels == [x.shape] * (large and registry.has_kernels("avg_pool_2x2", "cpu", x.dtype))
    grad = torch.randn_like(y)
    assert torch.equal(y, expected)
    assert torch.equal(*(torch.autograd.grad(t, x, grad)[0] for t in (y, expected)))


def test_a_traced_shortcut_is_that_of_pytorch(on_kernels):
    block = EvolvableBlock(BlockSpec(("skip_connect",), 16, 16, stride=2))
    x = torch.randn(32, 16, 16, 16)
    traced = torch.jit.trace(lambda x: block.shortcut(x), x)
    on_kernels.clear()  # the tracer compares with what the function gives by itself
    y = traced(x)
    assert not on_kernels
    assert torch.equal(y, block.shortcut(x))


def test_a_subclass_is_left_to_pytorch(on_kernels):
    class Mine(torch.Tensor):
        pass

    block = EvolvableBlock(BlockSpec(("skip_connect",), 16, 16, stride=2))
    block.shortcut(torch.randn(32, 16, 16, 16).as_subclass(Mine))
    assert not on_kernels
