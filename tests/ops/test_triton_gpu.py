"""The mixed layer's Triton kernels on a GPU: what they compute, that they never wait, and that graphs capture them."""

from __future__ import annotations

import pytest
import torch

from asose_fast import ops
from asose_fast.ops import registry
from asose_fast.ops.batch_statistics import batch_statistics
from asose_fast.space import CANDIDATES, MixedOp
from tests.ops.backend_checks import EveryOperatorChecks
from tests.ops.layer_checks import (
    BatchStatisticsChecks,
    LayerChecks,
    MixedLayerChecks,
    MixedNormSumChecks,
    MultiDepthwiseChecks,
    PointwiseChecks,
    PoolPairChecks,
    SeparableChecks,
)
from tests.ops.test_cuda import GpuChecks, no_synchronization

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


class TestEveryOperator(EveryOperatorChecks):
    backend, device, kernels = "triton", "cuda", "triton"


class TritonOnGpu(GpuChecks):
    backend, device = "triton", "cuda"

    def leaf(self, *shape: int, device: str = "cuda") -> torch.Tensor:
        x = torch.randn(shape, device=device)
        return (x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x).requires_grad_()

    def make_step(self, device: str = "cuda"):
        x = self.leaf(4, 40, 12, 12, device=device)
        leaves = [x, *(self.leaf(*shape, device=device) for shape in self.leaves)]

        def step():
            ys = self.call(*leaves)
            grads = torch.autograd.grad(sum(y.square().sum() for y in ys), leaves)
            return [*(y.detach() for y in ys), *grads]

        return step, lambda: x.data.normal_()


class TestBatchStatistics(TritonOnGpu, BatchStatisticsChecks):
    op = "batch_statistics"

    def make_step(self, device: str = "cuda"):
        x = self.leaf(4, 40, 12, 12, device=device)
        return lambda: list(batch_statistics([x, x])), lambda: x.data.normal_()


class TestMixedNormSum(TritonOnGpu, MixedNormSumChecks):
    op, leaves = "mixed_norm_sum", [(4, 40, 12, 12), (2,)]

    def call(self, x, z, weights):
        norms = [torch.nn.BatchNorm2d(40, affine=False, track_running_stats=False)] * 2
        return (ops.mixed_norm_sum([x, z], weights, norms, plain=[x]),)


class TestPoolPair(TritonOnGpu, PoolPairChecks):
    op, leaves = "pool_pair", []

    def call(self, x):
        return ops.pool_pair(x, stride=2)


class TestMultiDepthwise(TritonOnGpu, MultiDepthwiseChecks):
    op, leaves = "multi_depthwise", [(40, 1, 3, 3), (40, 1, 5, 5), (40,), (40,)]

    def call(self, x, first, second, scale, shift):
        return ops.multi_depthwise(x, [first, second], dilations=[1, 2], scale=scale, shift=shift)


class TestSeparable(TritonOnGpu, SeparableChecks):
    op, leaves = "separable", [(40, 1, 3, 3), (40, 1, 5, 5), (40, 40, 1, 1), (40, 40, 1, 1)]

    def call(self, x, *weights):
        return ops.separable(x, weights[:2], weights[2:], dilations=[1, 2])


class TestPointwise(TritonOnGpu, PointwiseChecks):
    op, leaves = "pointwise", [(20, 40, 1, 1), (20, 40, 1, 1)]

    def call(self, x, *weights):
        return (ops.pointwise(x, weights, stride=2),)


class TestNormLerp(TritonOnGpu, LayerChecks):
    op, leaves = "norm_lerp", [(4, 40, 12, 12), ()]

    def call(self, x, z, gain):
        return (ops.norm_lerp(z, torch.nn.BatchNorm2d(40, affine=False, track_running_stats=False), x, gain),)


class TestMixedLayer(MixedLayerChecks):
    backend, device = "triton", "cuda"

    @pytest.fixture(autouse=True)
    def _kernels_run_here(self):
        if reason := registry.why_not("separable", "triton", "cuda"):
            pytest.skip(reason)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_stacked_plan_is_chosen_agrees_with_the_modules_and_never_waits(stride, dtype):
    if reason := registry.why_not("separable", "triton", "cuda"):
        pytest.skip(reason)
    mixed = MixedOp.named(tuple(CANDIDATES), 32, stride).cuda().to(memory_format=torch.channels_last)
    plain = MixedOp.named(tuple(CANDIDATES), 32, stride, fused=False).cuda().double()
    plain.load_state_dict(mixed.state_dict())
    x = torch.randn(8, 32, 16, 16, device="cuda").contiguous(memory_format=torch.channels_last)
    weights = torch.rand(len(CANDIDATES), device="cuda", requires_grad=True)
    assert mixed._stacked(x, list(mixed.ops.values()))

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = mixed(x.to(dtype), weights)
        return y, torch.autograd.grad(y.float().square().mean(), [weights, *mixed.parameters()])

    step()
    with no_synchronization():
        step()
    mixed.load_state_dict(plain.state_dict())
    y, grads = step()
    expected = plain(x.double(), weights.double())
    exact = torch.autograd.grad(expected.square().mean(), [weights, *plain.parameters()])
    assert y.dtype == dtype
    tolerance = 5e-2 if dtype == torch.bfloat16 else 1e-3
    for got, value in zip((y, *grads), (expected, *exact), strict=True):
        assert (got.double() - value).abs().max() <= tolerance * value.abs().max()
