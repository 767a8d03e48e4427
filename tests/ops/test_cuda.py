"""The GPU backends: what they compute, that they never wait for the GPU, and that CUDA graphs can capture them."""

from __future__ import annotations

import contextlib

import pytest
import torch

from asose_fast import ops
from asose_fast.ops import registry
from tests.ops.backend_checks import ArchWeightsChecks, EveryOperatorChecks, MixedSumChecks, close
from tests.ops.depthwise_cases import SUPERNET
from tests.ops.multi_depthwise_checks import MultiDepthwiseChecks, make_case

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@contextlib.contextmanager
def no_synchronization():
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def capture(step):
    """The CUDA graph of step() and what it returned, warmed up as graphs want it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()
    return graph, outputs


class GpuChecks:
    """Added to the checks of an operator: `step()` returns the tensors of one forward and backward pass."""

    @pytest.fixture(autouse=True)
    def _kernels_run_here(self):
        reason = registry.why_not(self.op, self.backend, "cuda")
        if reason:
            pytest.skip(reason)

    def test_never_waits_for_the_gpu(self):
        step, _ = self.make_step()
        step()
        with no_synchronization():
            step()

    def test_graph_capture(self):
        step, vary = self.make_step()
        graph, captured = capture(step)
        for _ in range(2):
            vary()
            graph.replay()
            expected = step()
            for actual, fresh in zip(captured, expected, strict=True):
                assert torch.equal(actual, fresh)

    @pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
    def test_tensors_on_another_device_than_the_current_one(self):
        with torch.cuda.device(0):
            step, _ = self.make_step("cuda:1")
            assert all(t.device == torch.device("cuda:1") and t.isfinite().all() for t in step())


class TestEveryOperator(EveryOperatorChecks):
    backend, device, kernels = "cuda", "cuda", "cuda"


class ArchWeightsOnGpu(GpuChecks, ArchWeightsChecks):
    op, device = "arch_weights", "cuda"

    def make_step(self, device: str = "cuda"):
        logits = torch.randn(6, 10, device=device, requires_grad=True)
        rng = torch.tensor([3, 0], device=device)
        grad = torch.randn(6, 10, device=device)

        def step():
            result = ops.arch_weights(logits, 0.7, boost=ops.Boost(), rng=rng)
            return [*result, *torch.autograd.grad(result.weights, logits, grad)]

        def vary():
            rng[1] += 1
            logits.data.normal_()

        return step, vary

    def test_drawing_noise_never_waits_for_the_gpu(self):
        logits = torch.randn(6, 10, device="cuda")
        ops.arch_weights(logits, 0.7)
        with no_synchronization():
            ops.arch_weights(logits, 0.7)


class MixedSumOnGpu(GpuChecks, MixedSumChecks):
    op, device = "mixed_sum", "cuda"

    def make_step(self, device: str = "cuda"):
        xs = [torch.randn(4, 8, 5, 5, device=device, requires_grad=True) for _ in range(4)]
        xs[1] = torch.randn(4, 8, 10, 5, device=device)[:, :, ::2].requires_grad_()
        weights = torch.randn(4, device=device, requires_grad=True)
        grad = torch.randn(4, 8, 5, 5, device=device)

        def step():
            y = ops.mixed_sum(xs, weights)
            return [y.detach(), *torch.autograd.grad(y, [weights, *xs], grad)]

        def vary():
            weights.data.normal_()
            weights.data[2] = 0

        return step, vary

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    def test_more_elements_than_one_wave_of_blocks(self, dtype):
        self.check([self.random(3 * 2**20 + 5, dtype=dtype) for _ in range(3)], [0.3, 0.0, 0.7])
        self.check([self.random(1031, 3001, dtype=dtype).t() for _ in range(2)], [0.3, 0.7])

    @pytest.mark.parametrize("strided", [False, True])
    def test_more_elements_than_32_bits_count(self, strided):
        elements = 2**31 + 24
        if torch.cuda.mem_get_info()[0] < 32 * 2**30:
            pytest.skip("needs 32 GiB of free GPU memory")
        x = torch.zeros(elements + strided, dtype=torch.bfloat16, device="cuda")[int(strided) :]
        x[-1] = 3
        x.requires_grad_()
        weights = torch.tensor([2.0], device="cuda", requires_grad=True)
        y = ops.mixed_sum([x], weights)
        assert y[-1] == 6
        grad_x, grad_weights = torch.autograd.grad(y, [x, weights], torch.full_like(y, 0.5))
        assert grad_x[-1] == 1
        close(grad_weights, torch.tensor([1.5], device="cuda"))


class MultiDepthwiseOnGpu(GpuChecks, MultiDepthwiseChecks):
    op, device = "multi_depthwise", "cuda"

    def make_step(self, device: str = "cuda"):
        x = torch.randn(2, 24, 9, 18, device=device).to(memory_format=torch.channels_last).requires_grad_()
        weights = [torch.randn(24, 1, k, k, device=device, requires_grad=True) for k, _ in SUPERNET]
        affine = [torch.randn(24, device=device, requires_grad=True) for _ in range(2)]
        grads = [torch.randn(2, 24, 9, 18, device=device) for _ in SUPERNET]

        def step():
            ys = ops.multi_depthwise(
                x, weights, dilations=[d for _, d in SUPERNET], scale=affine[0], shift=affine[1]
            )  # fmt: skip
            return [*(y.detach() for y in ys), *torch.autograd.grad(ys, [x, *weights, *affine], grads)]

        def vary():
            x.data.normal_()
            weights[2].data.normal_()

        return step, vary

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("own", [False, True])
    def test_more_tiles_than_one_wave_of_blocks(self, dtype, own):
        self.check(make_case((48, 40, 33, 31), SUPERNET, dtype=dtype, own=own))

    def test_more_elements_than_32_bits_count(self):
        if torch.cuda.mem_get_info()[0] < 24 * 2**30:
            pytest.skip("needs 24 GiB of free GPU memory")
        x = torch.zeros(1, 1, 2**15 + 1, 2**16, dtype=torch.bfloat16, device="cuda")
        x[..., -1, -1] = 3
        x.requires_grad_()
        weight = torch.ones(1, 1, 3, 3, device="cuda", requires_grad=True)
        (y,) = ops.multi_depthwise(x, [weight], dilations=[1])
        assert y[0, 0, -2:, -2:].eq(3).all()
        grad = torch.zeros_like(y)
        grad[..., -1, -1] = 0.5
        grad_x, grad_weight = torch.autograd.grad(y, [x, weight], grad)
        assert grad_x[0, 0, -1, -2:].tolist() == [0, 0.5]  # the ReLU hides all but the last pixel
        assert grad_weight.flatten().tolist() == [0, 0, 0, 0, 1.5, 0, 0, 0, 0]


class TestArchWeightsCuda(ArchWeightsOnGpu):
    backend = "cuda"


class TestArchWeightsTriton(ArchWeightsOnGpu):
    backend = "triton"


class TestMixedSumCuda(MixedSumOnGpu):
    backend = "cuda"


class TestMixedSumTriton(MixedSumOnGpu):
    backend = "triton"


class TestMultiDepthwiseCuda(MultiDepthwiseOnGpu):
    backend = "cuda"
