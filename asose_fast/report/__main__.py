"""Writes a page on a run, or on several compared, in one HTML file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from asose_fast.command import Parser, command, warn
from asose_fast.paths import given_path
from asose_fast.program import spelled
from asose_fast.report import figures, page
from asose_fast.report.own import require_own
from asose_fast.report.run import read
from asose_fast.store.checkpoint import write_atomically


@command
def main(arguments: Sequence[str]) -> int:
    """Writes the page, and prints where it is. Returns the exit status: 0, or 2 after an error."""
    parser = Parser("report", __doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help=f"The run folder of {spelled('train')}.")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="The page to write; default: RUN/report.html, or comparison.html for several runs.",
    )
    parser.add_argument(
        "--figures", metavar="FOLDER", help="Write each figure there too, as SVG and, with resvg_py installed, as PNG."
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace files that no report has written.")
    given = parser.parse_args(arguments)
    folders = [given_path(name) for name in given.runs]
    runs = [read(folder) for folder in folders]
    if len(runs) == 1:
        out, text, drawn = folders[0] / "report.html", page.render(runs[0]), figures.all_of(runs[0])
    else:
        named = list(zip(page.label(runs), runs, strict=True))
        out, text, drawn = Path("comparison.html"), page.compare(runs), figures.compared(named)
    out = given_path(given.out or out)
    if not given.overwrite:
        require_own([out, *(figures.paths(drawn, given_path(given.figures)) if given.figures else [])])
    replaced = len(runs) > 1 and out.exists()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text.encode(errors="replace"))
    written = figures.write(drawn, given_path(given.figures)) if given.figures else []
    for run in runs:
        for problem in run.problems:
            warn(f"{run.name}: {problem}")
    instead = ", in place of the comparison that was there" if replaced else ""
    print(f"wrote {out}{instead}" + (f" and {len(written)} figures in {given.figures}" if written else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
