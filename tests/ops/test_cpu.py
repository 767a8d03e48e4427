"""The CPU kernels of every operator against the references; what is particular to one is in its own tests."""

import pytest

from asose_fast import _native
from tests.ops.backend_checks import EveryOperatorChecks

pytestmark = pytest.mark.skipif(bool(_native.kernels_missing("cpu")), reason="needs the CPU kernels")


class TestEveryOperator(EveryOperatorChecks):
    backend, device, kernels = "cpu", "cpu", "cpu"
