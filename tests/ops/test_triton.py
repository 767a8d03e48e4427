"""Triton without a GPU: the kernels interpreted, and compiled for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")


def test_kernels_in_the_interpreter():
    # TRITON_INTERPRET must be set before Triton is imported, hence the process.
    checks = Path(__file__).with_name("triton_interpreter.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(checks)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def compile_kernel(kernel, signature, constants, arch, warps=4):
    """PTX of a kernel whose pointers and sizes are multiples of 16, once ptxas has taken it too.

    `constants` maps a parameter's name to its value.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("under TRITON_INTERPRET=1 nothing is compiled")
    if "nvidia" not in triton.backends.backends:
        pytest.skip("this Triton has no CUDA backend")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    hint = [["tt.divisibility", 16]]
    hints = {}
    for i, kind in enumerate(signature.values()):
        kinds = {(i,): kind} if isinstance(kind, str) else {(i, j): one for j, one in enumerate(kind)}
        hints |= {path: hint for path, one in kinds.items() if one[0] == "*" or one == "i64"}
    source = ASTSource(kernel, signature, constants, hints)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps})
    assert compiled.asm["cubin"]
    return compiled.asm["ptx"]


ARCHITECTURES = pytest.mark.parametrize("arch", [80, 90])


@ARCHITECTURES
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize("noise", [False, True])
def test_arch_weights_compiles(arch, dtype, noise):
    from asose_fast.ops.triton import arch_weights

    table = f"*{dtype}"
    signature = {
        "logits": table,
        "noise": "*fp64" if noise else "constexpr",
        "rng": "constexpr" if noise else "*i64",
        "weights": table,
        "soft": table,
        "index": "*i64",
        "entropy": table,
        "max_prob": table,
        "temperature": "fp64",
        "amount": "fp64",
        "below": "fp64",
        "ops": "i32",
    }
    constants = {"HARD": True, "TOP_K": 3, "SKIP": 3, "NONE": 0, "SIZE": 16, "rng" if noise else "noise": None}
    signature |= {name: "constexpr" for name in constants}
    compile_kernel(arch_weights._arch_weights_fwd_kernel, signature, constants, arch, warps=1)
    signature = {"grad": table, "soft": table, "grad_logits": table, "temperature": "fp64", "ops": "i32"}
    signature["SIZE"] = "constexpr"
    compile_kernel(arch_weights._arch_weights_bwd_kernel, signature, {"SIZE": 16}, arch, warps=1)


@ARCHITECTURES
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32", "fp64"])
def test_mixed_sum_compiles_to_wide_loads(arch, dtype):
    from asose_fast.ops.triton import mixed_sum

    tensor, weights = f"*{dtype}", "*fp64" if dtype == "fp64" else "*fp32"
    signature = {"xs": (tensor,) * 3, "weights": weights, "y": tensor, "elements": "i64", "BLOCK": "constexpr"}
    constants = {"BLOCK": mixed_sum._BLOCK}
    ptx = compile_kernel(mixed_sum._mixed_sum_fwd_kernel, signature, constants, arch)
    assert "ld.global.v" in ptx
    assert "st.global.v" in ptx
    signature = {
        "grad": tensor,
        "xs": (tensor,) * 3,
        "weights": weights,
        "grad_xs": (tensor,) * 3,
        "partials": "*fp64",
        "elements": "i64",
        "NEED": "constexpr",
        "BLOCK": "constexpr",
    }
    constants |= {"NEED": (True, False, True)}
    ptx = compile_kernel(mixed_sum._mixed_sum_bwd_kernel, signature, constants, arch)
    assert "ld.global.v" in ptx
    assert "st.global.v" in ptx
