"""The Triton kernels in Triton's interpreter. Run by test_triton.py in a process with TRITON_INTERPRET=1."""

from types import MappingProxyType

import pytest
import torch
from torch import nn
from triton.runtime import interpreter

from asose_fast import ops
from asose_fast.ops.batch_statistics import batch_statistics
from asose_fast.ops.reference.batch_statistics import forward as exact_statistics
from asose_fast.ops.triton import last_program
from tests.ops.backend_checks import ArchWeightsChecks, BackendChecks, EveryOperatorChecks, MixedSumChecks, close
from tests.ops.layer_checks import (
    BatchStatisticsChecks,
    MixedLayerChecks,
    MixedNormSumChecks,
    MultiDepthwiseChecks,
    PointwiseChecks,
    PoolPairChecks,
    SeparableChecks,
)


class TestEveryOperator(EveryOperatorChecks):
    backend, device, kernels = "triton", "cpu", "triton"
    slack = MappingProxyType({torch.bfloat16: 2.0})  # the interpreter cuts off what a GPU rounds


class TestArchWeights(ArchWeightsChecks):
    backend, device = "triton", "cpu"


class TestMixedSum(MixedSumChecks):
    backend, device = "triton", "cpu"


class TestBatchStatistics(BatchStatisticsChecks):
    backend, device = "triton", "cpu"


class TestMixedNormSum(MixedNormSumChecks):
    backend, device = "triton", "cpu"


class TestPoolPair(PoolPairChecks):
    backend, device = "triton", "cpu"


class TestMultiDepthwise(MultiDepthwiseChecks):
    backend, device = "triton", "cpu"


class TestSeparable(SeparableChecks):
    backend, device = "triton", "cpu"


class TestPointwise(PointwiseChecks):
    backend, device = "triton", "cpu"


class TestMixedLayer(MixedLayerChecks):
    backend, device = "triton", "cpu"


class TestLastProgram(BackendChecks):
    """Of launches of many tasks, in several groups: whichever program comes last, it makes the same of all parts."""

    backend, device = "triton", "cpu"

    @pytest.fixture
    def backwards(self, monkeypatch):
        """Lets programs run from the last to the first."""
        builder = interpreter.interpreter_builder
        of_program = builder.set_grid_idx

        def set_grid_idx(*place):
            of_program(*(size - 1 - at for size, at in zip(builder.grid_dim, place, strict=True)))

        def turn():
            monkeypatch.setattr(builder, "set_grid_idx", set_grid_idx)

        return turn

    def test_statistics_of_many_tiles(self, backwards):
        zs = [(torch.randn(5, 70, 16, 17) + 3 * k).to(memory_format=torch.channels_last) for k in range(2)]
        found = batch_statistics(zs)
        for got, exact in zip(found, exact_statistics(zs), strict=True):
            close(got, exact, torch.float32)
        assert torch.equal(torch.stack(batch_statistics(zs)), torch.stack(found))
        backwards()
        assert torch.equal(torch.stack(batch_statistics(zs)), torch.stack(found))
        assert not last_program.counters(zs[0].device, 1).any()

    def test_a_norm_and_its_gradients_of_many_tiles(self, backwards):
        def results():
            z, shortcut = (x.clone().requires_grad_() for x in (first, second))
            gain, norm = torch.tensor(0.7, requires_grad=True), nn.BatchNorm2d(70)
            y = ops.norm_lerp(z, norm, shortcut, gain)
            wanted = [z, shortcut, gain, *norm.parameters()]
            return [y.detach(), norm.running_mean, norm.running_var, *torch.autograd.grad(y, wanted, grad)]

        first, second, grad = (torch.randn(5, 70, 16, 17).to(memory_format=torch.channels_last) for _ in range(3))
        found = results()
        with ops.backend("reference"):
            for got, exact in zip(found, results(), strict=True):
                close(got, exact, slack=5)
        assert all(torch.equal(a, b) for a, b in zip(results(), found, strict=True))
        backwards()
        assert all(torch.equal(a, b) for a, b in zip(results(), found, strict=True))
        assert not last_program.counters(first.device, 1).any()
