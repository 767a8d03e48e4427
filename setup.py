"""Builds the kernels with CMake; everything else about the package is in pyproject.toml."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def source_digest() -> str:
    """`asose_fast._digest.source_digest` of csrc/, without importing the package (and so torch)."""
    spec = importlib.util.spec_from_file_location("_digest", ROOT / "asose_fast" / "_digest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.source_digest(ROOT / "csrc")


class CMakeBuild(build_ext):
    """One CMake build for both modules; `ASOSE_CUDA`, `ASOSE_CUDA_ARCHS` and `ASOSE_SANITIZE` reach it."""

    def run(self) -> None:
        output = Path(self.get_ext_fullpath("asose_fast_kernels.cpu")).resolve().parent
        build = Path(self.build_temp).resolve()
        configure = [
            # --fresh: the cache of an earlier isolated build names tools that went away with it.
            "cmake", "--fresh", "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_INSTALL_PREFIX={output}",
            f"-DASOSE_SOURCE_DIGEST={source_digest()}",
            f"-DASOSE_CUDA={os.environ.get('ASOSE_CUDA', 'auto')}",
            f"-DASOSE_SANITIZE={os.environ.get('ASOSE_SANITIZE', '')}",
        ]  # fmt: skip
        if "ASOSE_CUDA_ARCHS" in os.environ:
            configure.append(f"-DASOSE_CUDA_ARCHS={os.environ['ASOSE_CUDA_ARCHS']}")
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)
        output.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cmake", "--install", str(build)], check=True)


# The kernels are a top-level package of their own, so that the source folder asose_fast/, which shadows the installed
# package for commands typed in the repository's root, does not hide them.
setup(
    ext_modules=[Extension("asose_fast_kernels.cpu", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
