"""Triton's kernels in its interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.long
def test_kernels_in_the_interpreter():
    # TRITON_INTERPRET must be set before Triton is imported, hence the process.
    small = (
        "test_stage.py",
        "test_term_weights.py",
        "test_linear.py",
        "test_norm_relu_mean.py",
        "test_norm_tables.py",
        "test_norm_lerp.py",
        "test_separable_norm.py",
    )
    checks = [Path(__file__).with_name(name) for name in ("triton_interpreter.py", *small)]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *map(str, checks)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
