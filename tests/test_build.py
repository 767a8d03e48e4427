"""What the build put into the compiled kernels."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from asose_fast._digest import source_digest


def cuobjdump() -> str:
    """NVIDIA's lister of device code: on PATH, or the copy that Triton brings."""
    found = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if not found and triton and triton.origin:
        found = shutil.which("cuobjdump", path=str(Path(triton.origin).parent / "backends" / "nvidia" / "bin"))
    return found or pytest.skip("neither the CUDA toolkit nor Triton brings cuobjdump")


def test_every_cuda_kernel_has_code_for_the_common_gpus():
    cuda = pytest.importorskip("asose_fast_kernels.cuda", reason="built without the CUDA kernels")
    sources = Path(__file__).parent.parent / "csrc" / "cuda"
    kernels = {
        name
        for source in sources.glob("*.cu")
        for name in re.findall(r"__global__[^;{]*?(\w+_kernel)\(", source.read_text())
    }
    assert {"arch_weights_fwd_kernel", "mixed_sum_bwd_kernel", "multi_depthwise_bwd_weights_kernel"} <= kernels
    usage = [cuobjdump(), "--dump-resource-usage", cuda.__file__]
    listing = subprocess.run(usage, capture_output=True, text=True, check=True).stdout
    code = dict.fromkeys(re.findall(r"arch = (sm_\d+)", listing), "")
    for arch, text in re.findall(r"arch = (sm_\d+)(.*?)(?=arch = |\Z)", listing, re.DOTALL):
        code[arch] += text
    assert {"sm_80", "sm_86", "sm_89", "sm_90"} <= code.keys()
    for arch, text in code.items():
        missing = {name for name in kernels if name not in text}
        assert not missing, f"{arch} lacks {missing}"


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_kernels_were_built_from_these_sources(name):
    module = pytest.importorskip(f"asose_fast_kernels.{name}", reason=f"built without the {name} kernels")
    csrc = Path(__file__).parent.parent / "csrc"
    assert module.source_digest == source_digest(csrc), "run `pip install .` again"


def test_cuda_functions_have_the_signatures_of_the_cpu():
    cuda = pytest.importorskip("asose_fast_kernels.cuda", reason="built without the CUDA kernels")
    from asose_fast_kernels import cpu

    def signatures(module):
        functions = {name: getattr(module, name).__doc__ for name in dir(module) if "ward" in name or "tasks" in name}
        return {name: re.sub(r"-> .*", "", doc).count("arg") for name, doc in functions.items()}

    assert signatures(cuda).items() <= signatures(cpu).items()  # some operators have no CUDA kernel
