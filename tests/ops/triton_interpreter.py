"""The Triton kernels in Triton's interpreter. Run by test_triton.py in a process with TRITON_INTERPRET=1."""

from tests.ops.backend_checks import ArchWeightsChecks, MixedSumChecks


class TestArchWeights(ArchWeightsChecks):
    backend, device = "triton", "cpu"


class TestMixedSum(MixedSumChecks):
    backend, device = "triton", "cpu"
