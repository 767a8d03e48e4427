"""The Triton kernels in Triton's interpreter. Run by test_triton.py in a process with TRITON_INTERPRET=1."""

from types import MappingProxyType

import torch

from tests.ops.backend_checks import ArchWeightsChecks, EveryOperatorChecks, MixedSumChecks
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
