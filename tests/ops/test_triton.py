"""Triton without a GPU: the kernels interpreted, and compiled for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")


@pytest.mark.long
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
        hints |= {path: hint for path, one in kinds.items() if one[0] == "*" or one[0] == "i"}
    source = ASTSource(kernel.jit, signature, constants, hints)
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


def compile_layer_kernel(kernel, arch, warps=4, **arguments):
    """`compile_kernel` with types as strings, or tuples of them, and every other argument a constant."""

    def is_type(value):
        return isinstance(value[0] if isinstance(value, tuple) and value else value, str)

    arguments = {name: arguments[name] for name in kernel.jit.arg_names}
    signature = {name: value if is_type(value) else "constexpr" for name, value in arguments.items()}
    constants = {name: value for name, value in arguments.items() if not is_type(value)}
    return compile_kernel(kernel, signature, constants, arch, warps)


LAYER = pytest.mark.parametrize(("arch", "dtype"), [(80, "fp32"), (90, "bf16")])
SPACE = {"rows": "i32", "channels": "i32", "BLOCK_P": 64, "BLOCK_C": 32}
IMAGES = {"images": "i32", "height": "i32", "width": "i32", "out_height": "i32", "out_width": "i32"}


@pytest.mark.parametrize(("arch", "dtype", "inner"), [(80, "fp32", "i32"), (90, "bf16", 1)])
def test_batch_statistics_compiles(arch, dtype, inner):
    from asose_fast.ops.triton import batch_statistics as op

    tensor = f"*{dtype}"
    arguments = SPACE | {"zs": (tensor,) * 2, "partials": "*fp64", "inner": inner, "ACC": triton.language.float32}
    ptx = compile_layer_kernel(op._batch_statistics_kernel, arch, **arguments)
    assert inner != 1 or "ld.global.v" in ptx
    arguments = SPACE | {"partials": "*fp64", "means": "*fp64", "variances": "*fp64", "tasks": "i32", "BLOCK_T": 64}
    for rows in ("i32", 1):
        compile_layer_kernel(op._merge_kernel, arch, **arguments | {"rows": rows})


@LAYER
def test_mixed_norm_sum_compiles_to_wide_loads(arch, dtype):
    from asose_fast.ops.triton import mixed_norm_sum as op

    tensor = f"*{dtype}"
    tables = {"weights": "*fp32", "gamma": "*fp32", "beta": None, "means": "*fp64", "rstds": "*fp64"}
    tables |= {"tables": "*fp32", "BRANCHES": 2, "centers": "*fp32", "count": "i32", "sums": "*fp64"}
    lists = {"xs": (tensor,) * 3, "READ": (True, False, True), "BATCH": (True, False), "NEED": (True, False, True)}
    arguments = SPACE | tables | lists | {"inner": 1, "ACC": triton.language.float32, "partials": "*fp32"}
    arguments |= {"grad": tensor, "grad_xs": (tensor,) * 3, "y": tensor}
    for kernel in (op._mixed_norm_sum_fwd_kernel, op._sums_kernel, op._grads_kernel):
        assert "ld.global.v" in compile_layer_kernel(kernel, arch, **arguments)
    for kernel, changes in ((op._terms_kernel, {"beta": "*fp32", "gamma": None}), (op._tables_kernel, {"count": 1})):
        compile_layer_kernel(kernel, arch, **arguments)
        compile_layer_kernel(kernel, arch, **arguments | changes)


@pytest.mark.parametrize(("arch", "dtype", "stride"), [(80, "fp32", 2), (90, "bf16", 1)])
def test_pool_pair_compiles_to_wide_loads(arch, dtype, stride):
    from asose_fast.ops.triton import pool_pair as op

    tensor = f"*{dtype}"
    arguments = SPACE | IMAGES | {"x": tensor, "STRIDE": stride, "ACC": triton.language.float32}
    outputs = {"avg": tensor, "largest": tensor, "places": None}
    assert "ld.global.v" in compile_layer_kernel(op._pool_pair_fwd_kernel, arch, **arguments, **outputs)
    outputs = {"avg": None, "largest": None, "places": "*u8"}
    compile_layer_kernel(op._pool_pair_fwd_kernel, arch, **arguments, **outputs)
    arguments |= {"grad_avg": tensor, "grad_max": tensor, "z_avg": None, "z_max": tensor, "tables": "*fp32"}
    arguments |= {"places": "*u8", "terms": (tensor,), "factors": "*fp32", "grad_x": tensor, "height": 1}
    assert "ld.global.v" in compile_layer_kernel(op._pool_pair_bwd_kernel, arch, **arguments)


@pytest.mark.parametrize(("arch", "dtype", "own", "stride"), [(80, "fp32", True, 1), (90, "bf16", False, 2)])
def test_multi_depthwise_compiles_to_wide_loads(arch, dtype, own, stride):
    from asose_fast.ops.depthwise_plan import DepthwisePlan
    from asose_fast.ops.triton import multi_depthwise as op

    tensor, plan = f"*{dtype}", DepthwisePlan((3, 1), (2, 1), 2 if own else 1, stride, True, own)
    branches = op._branches(plan, [True, True])
    arguments = SPACE | IMAGES | {"STRIDE": stride, "ACC": triton.language.float32, "params": "*fp32"}
    arguments |= {"xs": (tensor,) * plan.inputs, "ys": (tensor,) * 2, "grads": (tensor,) * 2}
    arguments |= {"grad_xs": (tensor,) * plan.inputs, "NEED": (True,) * plan.inputs, "RELU": True, "AFFINE": own}
    arguments |= {"TAPS": tuple(op._taps(plan, some) for some in branches), "BRANCHES": branches, "WEIGHTS": 10}
    arguments |= {"partials": "*fp32", "tiles": "i32", "KERNELS": plan.kernels, "DILATIONS": plan.dilations}
    arguments |= {"USED": (True, not own), "FIRST": (0, 9)}
    for kernel in (op._multi_depthwise_fwd_kernel, op._inputs_bwd_kernel, op._weights_bwd_kernel):
        assert "ld.global.v" in compile_layer_kernel(kernel, arch, **arguments)


@LAYER
def test_separable_compiles_to_wide_loads(arch, dtype):
    from asose_fast.ops.triton import separable as op

    lists = {name: (f"*{dtype}",) * 2 for name in ("grads", "zs", "grad_zs")}
    arguments = SPACE | lists | {"tables": "*fp32", "HAS_Z": (True, False), "ACC": triton.language.float32}
    assert "ld.global.v" in compile_layer_kernel(op._grad_z_kernel, arch, **arguments)
