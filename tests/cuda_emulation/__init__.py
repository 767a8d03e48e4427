"""The CUDA kernels on the CPU: csrc/cuda compiled as C++ against a small emulation of CUDA, under AddressSanitizer.

`build` makes a Python module of the kernels and bindings that the installed `asose_fast_kernels.cuda` has. A process
that loads it must have been started with `sanitizer_environment`.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import torch

from asose_fast._digest import source_digest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
SANITIZE = [
    "-fsanitize=address,alignment,bounds,shift",
    "-fsanitize-recover=address",  # the emulator makes an exception of it
    "-fno-sanitize-recover=alignment,bounds,shift",
]


def compiler() -> str | None:
    """g++, whose sanitizers the process can preload."""
    return shutil.which("g++")


def sanitizer_environment() -> dict[str, str]:
    """What a process needs that loads the module: the runtimes first of all libraries, and leaks ignored."""
    names = ("libasan.so", "libstdc++.so")
    paths = [
        subprocess.run(["g++", f"-print-file-name={n}"], capture_output=True, text=True, check=True).stdout.strip()
        for n in names
    ]
    return {
        **os.environ,
        "LD_PRELOAD": ":".join(paths),
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=0:suppress_equal_pcs=0",
        "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1",
    }


def build(folder: Path) -> Path:
    """The folder of the module `cuda`, built below `folder` unless the one there is of these sources."""
    kernels = [*sorted(CSRC.glob("cuda/*.cu")), HERE / "faulty.cu", HERE / "emulator.cpp"]
    digests = source_digest(CSRC), source_digest(HERE, "*.[hc]*"), source_digest(HERE, "*.py"), torch.__version__
    place = folder / hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
    if (place / "cuda.so").exists():
        return place
    place.mkdir(parents=True, exist_ok=True)
    includes = [f"-I{HERE / 'include'}", f"-I{CSRC}"]
    python = [f"-I{Path(torch.__file__).parent / 'include'}", f"-I{sysconfig.get_path('include')}"]
    digest = f'-DASOSE_SOURCE_DIGEST="{source_digest(CSRC)}"'
    # Shared memory is thread_local, without constructors.
    flags = ["-O1", "-g1", "-fno-extern-tls-init", *SANITIZE, *includes]
    commands = [[*flags, source] for source in kernels]
    bindings = place / "bindings.cpp"
    names = ["module", *(kernel.stem for kernel in CSRC.glob("cuda/*.cu"))]
    bindings.write_text("".join(f'#include "{CSRC / "bindings" / name}.cpp"\n' for name in sorted(names)))
    commands.append(["-O0", *python, digest, "-DASOSE_DEVICE=cuda", bindings])

    def compile(command: list) -> str:
        *flags, source = command
        object = place / f"{source.stem}.o"
        run("g++", "-std=c++17", "-fPIC", "-fvisibility=hidden", *flags, "-x", "c++", "-c", source, "-o", object)
        return str(object)

    # The largest first, so that the last one does not wait for it.
    commands.sort(key=lambda command: -command[-1].stat().st_size)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile, commands))
    run("g++", "-shared", *SANITIZE, *objects, "-o", place / "linking.so")
    (place / "linking.so").rename(place / "cuda.so")
    return place


def run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr[:4000]}")
