"""That the sanitizers watch the kernels of `ASOSE_ISA`. Run by sanitize.sh ahead of the tests of the kernels."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asose_fast import _native
from tests.helpers import ROOT

READ_PAST_THE_END = """
x, y = torch.ones(7), torch.empty(2, 8)
kernels.pool_pair_forward(0, [1, 1, 1, 8], 1, x.data_ptr(), y[0].data_ptr(), y[1].data_ptr(), 1)
"""
SIGNED_OVERFLOW = "kernels.pool_pair_forward(0, [2**62, 1, 4, 1], 1, 0, 0, 0, 1)"


def test_these_kernels_are_used():
    kernels = _native.kernels("cpu")
    assert Path(kernels.__file__).is_relative_to(ROOT / "build" / "sanitize")
    assert kernels.isa() == os.environ["ASOSE_ISA"]


@pytest.mark.parametrize(
    ("fault", "report"),
    [
        (READ_PAST_THE_END, "AddressSanitizer: heap-buffer-overflow"),
        (SIGNED_OVERFLOW, "runtime error: signed integer overflow"),
    ],
    ids=["read past the end", "signed overflow"],
)
def test_a_fault_in_a_kernel_is_reported(fault, report):
    code = f"import torch; from asose_fast import _native; kernels = _native.kernels('cpu')\n{fault}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert report in done.stderr
    assert f"asose::cpu::{os.environ['ASOSE_ISA']}::" in done.stderr
    assert "csrc/cpu/pool_pair.cpp:" in done.stderr
