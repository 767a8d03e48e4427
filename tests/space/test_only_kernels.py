"""What blocks of the chain and their projections compute with: our kernels alone, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from asose_fast import _native
from asose_fast.config import SPACE_CANDIDATES
from asose_fast.ops import registry
from asose_fast.space.block import BlockSpec, EvolvableBlock
from asose_fast.space.parts import run_on_kernels

NAMES = SPACE_CANDIDATES["chain"]
SHAPES = [(16, 32), (32, 16), (64, 8), (96, 8)]
COMPUTING = {
    f"aten::{name}"
    for name in (
        "add", "sub", "rsub", "mul", "neg", "relu", "threshold_backward", "convolution", "convolution_backward",
        "native_batch_norm", "native_batch_norm_backward", "avg_pool2d", "avg_pool2d_backward",
        "max_pool2d_with_indices", "max_pool2d_with_indices_backward",
    )
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    not registry.has_kernels("conv_norm", "cpu", torch.float32) or _native.kernels("cpu").isa() != "avx512",
    reason="the kernels are not built, or oneDNN keeps convolutions",
)


def computing(function, x):
    """The operators of PyTorch that a forward and a backward pass compute with."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        y = function(x)
        y.backward(torch.ones_like(y))
    return {event.name for event in found.events()} & COMPUTING


def images(channels, side):
    return torch.randn(64, channels, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()


def block(*spec, **options):
    return EvolvableBlock(BlockSpec(*spec, **options)).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "side"), SHAPES)
def test_weight_steps(channels, side, stride):
    sampled, x = block(NAMES, channels, channels, stride), images(channels, side)
    pools = {"avg_pool_3x3", "max_pool_3x3"} if stride == 2 and channels > 16 else set()  # PyTorch is faster at these
    for k, name in enumerate(NAMES):
        found = computing(lambda x, k=k: sampled.mix(x, index=k), x)
        assert bool(found) == (name in pools), f"{name}: {found}"


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "side"), SHAPES)
def test_alpha_steps(channels, side, stride):
    mixture, x = block(NAMES, channels, channels, stride).requires_grad_(False), images(channels, side)
    for name in ("max_pool_3x3", "sep_conv_3x3", "conv_7x1_1x7"):
        k = NAMES.index(name)
        weights = torch.eye(len(NAMES))[k].requires_grad_()
        found = computing(lambda x, k=k, weights=weights: mixture.mix(x, weights, k), x)
        assert found <= {"aten::add"}, f"{name}: {found}"  # by which autograd adds gradients up


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(("channels", "side"), [(16, 16), (32, 8), (48, 8), (16, 4)])
def test_projections(channels, side, trained):
    project = block(("skip_connect",), channels, 2 * channels).requires_grad_(trained).project
    assert not computing(lambda x: run_on_kernels(project, x), images(channels, side))
