"""The tables of what is known of the GPU engine without a GPU: `python -m benchmarks.without_gpu [--measure] [--check]`

`--measure` compiles every Triton kernel as the operators launch it (minutes of processor time, once: Triton keeps what
it compiled) and every CUDA kernel with nvcc, and counts what a layer and a step launch and move. It writes
benchmarks/results/without_gpu.json, from which the page's tables are made. `--check` writes nothing and fails where a
table is old.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks.marked import markdown, marker, replaced, update
from benchmarks.without_gpu import cuda, launches
from benchmarks.without_gpu.kernels import CHANNELS, DTYPES, Row, rows, table

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "gpu.md", ROOT / "docs" / "performance.md"]
STORED = ROOT / "benchmarks" / "results" / "without_gpu.json"
MARKED = marker("without_gpu", r"\w+")


def measured() -> dict[str, Any]:
    """Everything that is told on the page."""
    if reason := cuda.missing():
        raise FileNotFoundError(reason)
    found: list[Row] = []
    for dtype, channels in itertools.product(DTYPES, CHANNELS):
        print(f"compiling for sm_90: {dtype}, {channels} channels", file=sys.stderr)
        found += rows(90, dtype, channels)
    return {
        "versions": {
            "torch": torch.__version__.split("+")[0],
            "triton": triton.__version__,
            "nvcc": cuda.compiler(),
        },
        "counts": launches.collect(),
        "kernels": [list(dataclasses.astuple(row)) for row in found],
        "cuda": [list(dataclasses.astuple(row)) for row in cuda.rows(90)],
    }


def _lines(figures: dict[str, Any]) -> str:
    """JSON with a line for a row, so that a change is seen in a diff."""
    text = json.dumps(figures, indent=1)
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda row: "[" + re.sub(r"\s+", " ", row[1]) + "]", text) + "\n"


def stored() -> dict[str, Any]:
    """What was measured last."""
    return json.loads(STORED.read_text())


def rewritten(text: str, _: str = "en") -> str:
    """The page with its tables as they should be."""
    found = stored()
    tables = {
        "kernels": list(table(Row(*row) for row in found["kernels"])),
        "cuda": list(cuda.table(cuda.Row(*row) for row in found["cuda"])),
        "counts": launches.table(found["counts"]),
        "predictions": launches.predictions(found["counts"]),
    }
    return replaced(text, "without_gpu", MARKED, lambda name: markdown(tables[name]))


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.without_gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--measure", action="store_true", help="compile and count first")
    parser.add_argument("--check", action="store_true", help="fail where a table is out of date")
    options = parser.parse_args(words)
    if options.measure:
        STORED.write_text(_lines(measured()))
    outdated = "its tables are not those of the results: run `python -m benchmarks.without_gpu`"
    return update(parser, PAGES, rewritten, check=options.check, outdated=outdated)


if __name__ == "__main__":
    sys.exit(main())
