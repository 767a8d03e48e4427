"""What the build put into the compiled kernels."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asose_fast._digest import source_digest
from benchmarks.without_gpu.code import cuobjdump, listing
from benchmarks.without_gpu.cuda import kernels as kernels_of
from tests.helpers import ROOT


def test_every_cuda_kernel_has_code_for_the_common_gpus():
    cuda = pytest.importorskip("asose_fast_kernels.cuda", reason="built without the CUDA kernels")
    sources = Path(__file__).parent.parent / "csrc" / "cuda"
    kernels = {name for source in sources.glob("*.cu") for name in kernels_of(source)}
    assert {"arch_weights_fwd_kernel", "mixed_sum_bwd_kernel", "multi_depthwise_bwd_kernel"} <= kernels
    if not cuobjdump():
        pytest.skip("neither the CUDA toolkit nor Triton brings cuobjdump")
    usage = listing("--dump-resource-usage", cuda.__file__)
    code = dict.fromkeys(re.findall(r"arch = (sm_\d+)", usage), "")
    for arch, text in re.findall(r"arch = (sm_\d+)(.*?)(?=arch = |\Z)", usage, re.DOTALL):
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


@pytest.mark.long
def test_instruction_sets_share_no_function(request):
    """The linker keeps one of the functions that several copies define, whichever it meets first."""
    tools = [shutil.which(tool) for tool in ("cmake", "ninja", "g++", "nm")]
    if not all(tools):
        pytest.skip("needs cmake, ninja, g++ and nm")
    build = request.config.cache.mkdir("cpu_objects") / source_digest(ROOT / "csrc")
    sets = ("generic", "avx2") if platform.machine() in ("x86_64", "AMD64") else ("generic",)
    pybind = pytest.importorskip("pybind11", reason="CMake asks for pybind11").get_cmake_dir()
    options = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind}", "-DASOSE_CUDA=0"]
    configure = ["cmake", "-S", ROOT, "-B", build, "-G", "Ninja", *options]
    for command in (configure, ["cmake", "--build", build, "--target", *(f"cpu_{isa}" for isa in sets)]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    for isa in sets:
        objects = sorted((build / "CMakeFiles" / f"cpu_{isa}.dir").rglob("*.o"))
        listing = subprocess.run(["nm", "-C", "--defined-only", *objects], capture_output=True, text=True, check=True)
        # Of functions and constants: those of the object alone have small letters.
        names = set(re.findall(r"^[0-9a-f]+ [A-Zu] (.*)$", listing.stdout, re.MULTILINE))
        assert any(name.startswith(f"asose::cpu::{isa}::mixed_sum_forward(") for name in names)
        assert not {n for n in names if not n.startswith((f"asose::cpu::{isa}::", "DW.ref.__gxx_personality"))}
