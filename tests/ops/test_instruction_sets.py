"""The kernels of every instruction set that runs here against the float64 references."""

import pytest

from asose_fast import _native
from tests.helpers import INSTRUCTION_SETS, ROOT, python, skip_without

OPERATORS = (
    "avg_pool_2x2",
    "cross_entropy",
    "dense_conv",
    "line_conv",
    "linear",
    "multi_depthwise",
    "norm_pool",
    "norm_relu_mean",
    "pool_pair",
    "separable",
    "sgd",
    "total_norm",
)
TESTS = [f"{ROOT}/tests/ops/test_{operator}.py::test_matches_the_float64_reference" for operator in OPERATORS]
TESTS.append(f"{ROOT}/tests/ops/test_dense_conv.py::test_filtered_tiles_match_the_float64_reference")


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_every_instruction_set(isa):
    skip_without(isa)
    if missing := _native.kernels_missing("cpu"):
        pytest.skip(missing)
    # An instruction set is chosen once in a process, whose start takes longer than the tests of an operator.
    result = python("-m", "pytest", "-p", "no:cacheprovider", *TESTS, "-k", "cpu", ASOSE_ISA=isa)
    assert result.returncode == 0, result.stdout
