"""Writes the derived network of a run as what runs without asose_fast."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import get_args

from asose_fast.command import Parser, command, failed
from asose_fast.export import ExportError, Format, export
from asose_fast.export.check import BATCHES, BOUND
from asose_fast.paths import given_path
from asose_fast.program import spelled


@command
def main(arguments: Sequence[str]) -> int:
    """Exports, and prints what was written. Returns the exit status: 0, or 2 after an error."""
    parser = Parser("export", __doc__)
    parser.add_argument("run", metavar="RUN", help=f"The run folder of {spelled('train')}.")
    parser.add_argument(
        "--format",
        required=True,
        choices=get_args(Format),
        help="What to write: a Python file to read, an ExportedProgram, or a file for ONNX runtimes.",
    )
    parser.add_argument(
        "--out", metavar="PATH", help="The file to write; default: RUN/model.py, model.pt2 or model.onnx."
    )
    parser.add_argument(
        "--with_normalization",
        action="store_true",
        help="The network takes values from 0 to 1 and normalises them itself.",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace files that are there already.")
    given = parser.parse_args(arguments)
    options = {"with_normalization": given.with_normalization, "overwrite": given.overwrite}
    out = None if given.out is None else given_path(given.out)
    try:
        exported = export(given_path(given.run), given.format, out, **options)
    except ExportError as error:
        return failed(str(error))
    batches = f"{', '.join(map(str, BATCHES[:-1]))} and {BATCHES[-1]}"
    print(f"wrote {' and '.join(map(str, exported.paths))}")
    print(
        f"largest difference from the original: {exported.difference:.1e} of the largest score "
        f"(bound {BOUND:.0e}; random batches of {batches})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
