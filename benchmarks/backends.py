"""Tables that say which operator has which backend: `python -m benchmarks.backends [--check] [FILE...]`

What stands between `<!-- backends: NAME ... -->` and `<!-- /backends -->` is replaced by a table with the columns that
are named: reference, cpu, cuda or triton. Files are README.md, README.zh-CN.md and docs/kernels.md unless others are
named. The table is Chinese where the name ends in .zh-CN.md. `--check` changes nothing and fails where a table is old.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from asose_fast.ops import registry
from benchmarks.marked import markdown, marker, replaced, update

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "docs" / "kernels.md"]
MARKED = marker("backends", r"[\w ]+?")
RESULTS = {"reference": "cpu.jsonl", "cpu": "cpu.jsonl", "cuda": "gpu.jsonl", "triton": "gpu.jsonl"}
"""The file of benchmarks/results/ that is there once a backend was measured."""

OPERATORS = {"en": ("operator", ", "), "zh-CN": ("算子", "、")}
"""The name of the first column, and what stands between operators."""
WORDS = {
    "en": {
        "reference": ("plain PyTorch", "tested"),
        "cpu": ("CPU (generic, AVX2, AVX-512)", "tested"),
        "cuda": ("CUDA (sm_80 to sm_90)", "compiled, tested in an emulation on CPUs"),
        "triton": ("Triton", "compiled, tested in the interpreter"),
        "hardware": ("speed and memory on hardware", "measured", "not measured"),
    },
    "zh-CN": {
        "reference": ("纯 PyTorch", "已测试"),
        "cpu": ("CPU（通用、AVX2、AVX-512）", "已测试"),
        "cuda": ("CUDA（sm_80 至 sm_90）", "已编译，已在 CPU 上仿真测试"),
        "triton": ("Triton", "已编译，已在解释器中测试"),
        "hardware": ("硬件上的速度与内存", "已测量", "未测量"),
    },
}
"""The name of a backend's column, and how all operators that have the backend are tested with it."""


def table(names: Sequence[str], language: str = "en") -> list[str]:
    """The lines of the table with the columns `names`. Operators that have the same backends share a row."""
    words, (operator, comma) = WORDS[language], OPERATORS[language]
    rows: dict[tuple[str, ...], list[str]] = {}
    for op in sorted(registry.operators()):
        cells = tuple(words[name][1] if name in registry.backends(op) else "-" for name in names)
        rows.setdefault(cells, []).append(f"`{op}`")
    label, *measured = words["hardware"]
    hardware = [measured[not (ROOT / "benchmarks" / "results" / RESULTS[name]).exists()] for name in names]
    head = [operator, *(words[name][0] for name in names)]
    return markdown([head, *([comma.join(ops), *cells] for cells, ops in rows.items()), [label, *hardware]])


def rewritten(text: str, language: str) -> str:
    """The text with its tables as they should be. Raises ValueError for a marker without its end, or another column."""

    def marked(names: str) -> list[str]:
        for name in names.split():
            if name not in registry.BACKENDS:
                raise ValueError(f"there is no backend {name!r}: choose among {', '.join(registry.BACKENDS)}")
        return table(names.split(), language)

    return replaced(text, "backends", MARKED, marked)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.backends", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="fail where a table is out of date")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    return update(
        parser,
        options.files or PAGES,
        rewritten,
        check=options.check,
        outdated="its tables are not those of the registry: run `python -m benchmarks.backends`",
    )


if __name__ == "__main__":
    sys.exit(main())
