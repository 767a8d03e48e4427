"""The CUDA kernels without a GPU: their sources run as C++ on the CPU, against the references and a sanitizer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import cuda_emulation


@pytest.mark.long
def test_kernels_on_the_emulator(request):
    if not cuda_emulation.compiler():
        pytest.skip("the CUDA kernels are emulated with g++, which is not here")
    folder = cuda_emulation.build(request.config.cache.mkdir("cuda_emulation"))
    # The sanitizer's runtime must be the first library of the process.
    checks = Path(__file__).with_name("cuda_emulator.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--capture=sys", str(checks)],
        env={**cuda_emulation.sanitizer_environment(), "ASOSE_CUDA_EMULATION": str(folder)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
