"""Commits side by side: each in a git worktree of its own, with kernels that were built from it."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from asose_fast._digest import source_digest
from benchmarks.record import ROOT

BUILT = ROOT / ".benchmarks" / "kernels"


class Checkout(NamedTuple):
    commit: str
    paths: list[Path]
    """For PYTHONPATH: the package, then its kernels."""


class Plant(NamedTuple):
    """A slowdown to be found: a kernel first does the share `factor - 1` of its work for nothing."""

    op: str
    factor: float

    @staticmethod
    def parse(text: str) -> Plant:
        """From OP=FACTOR. Raises ValueError."""
        op, _, factor = text.partition("=")
        if op not in SHARES:
            raise ValueError(f"no slowdown can be planted into {op!r}: choose one of {', '.join(SHARES)}")
        if not 1 < float(factor) <= 2:
            raise ValueError(f"a kernel can be planted to take from 1 to 2 times as long, not {factor}")
        return Plant(op, float(factor))


SHARES = {
    "mixed_sum": "int64_t sizes[kMaxDims]; std::copy_n(args.space.sizes, args.space.dims, sizes); "
    "sizes[0] = share(sizes[0]); part.space.sizes = sizes;",
    "multi_depthwise": "part.op.images = share(args.op.images);",
    "pool_pair": "part.op.images = share(args.op.images);",
    "separable": "part.op.depthwise.images = share(args.op.depthwise.images);",
}
"""By operator, what makes `part`, a copy of `args`, a share of its work. The kernel then overwrites what it wrote."""
PLANTED = """#include <algorithm>
#include <cmath>
#include "../{op}.h"
#include "device.h"
namespace asose {{
namespace {{
inline int64_t share(int64_t all) {{
  return std::max<int64_t>(1, std::llround({share} * static_cast<double>(all)));
}}
template <class Args>
void run_slowly(void (*kernel)(const Args&, int), const Args& args, int threads) {{
  Args part = args;
  {change}
  cpu::run_unlocked(kernel, part, threads);
  cpu::run_unlocked(kernel, args, threads);
}}
}}  // namespace
}}  // namespace asose
"""
CALL = "device::run_unlocked("


def planted(source: str, plant: Plant) -> str:
    """csrc/bindings/<op>.cpp with the slowdown. Raises ValueError where it does not run the kernels as it used to."""
    if source.count(CALL) != 2:
        raise ValueError(f"csrc/bindings/{plant.op}.cpp is not what benchmarks/checkouts.py expects: two of {CALL}")
    slow = PLANTED.format(op=plant.op, share=plant.factor - 1, change=SHARES[plant.op])
    return slow + source.replace(CALL, "run_slowly(")


@contextlib.contextmanager
def checkout(revision: str, plant: Plant | None = None) -> Iterator[Checkout]:
    """A commit in a temporary worktree. Raises ValueError for what names no commit."""
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise ValueError(f"{revision!r} names no commit of {ROOT}")
    commit = done.stdout.strip()
    with tempfile.TemporaryDirectory(prefix="asose-compare-") as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(tree), commit], cwd=ROOT, check=True)
        try:
            if plant:
                bindings = tree / "csrc" / "bindings" / f"{plant.op}.cpp"
                bindings.write_text(planted(bindings.read_text(), plant))
            yield Checkout(commit, [tree, _kernels(tree)])
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def _kernels(tree: Path) -> Path:
    """The folder with the CPU kernels of a source tree, built where they are not there yet."""
    digest = hashlib.sha256(f"{sys.version} {source_digest(tree / 'csrc')}".encode())
    for name in ("CMakeLists.txt", "setup.py"):
        digest.update((tree / name).read_bytes())
    target = BUILT / digest.hexdigest()[:16]
    if not target.exists():
        print(f"building the kernels of {tree} ...", file=sys.stderr, flush=True)
        tools = importlib.util.find_spec("pybind11") and shutil.which("cmake") and shutil.which("ninja")
        part = target.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        subprocess.run(
            [
                sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(part),
                *(["--no-build-isolation"] if tools else []), str(tree),
            ],
            env={**os.environ, "ASOSE_CUDA": "0", "ASOSE_SANITIZE": ""}, check=True,
        )  # fmt: skip
        shutil.rmtree(part / "asose_fast")  # the package itself is that of the worktree
        part.rename(target)
    return target
