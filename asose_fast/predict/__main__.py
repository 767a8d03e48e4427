"""Says the classes of images, by the network of a run.

NETWORK is a run folder, or a file that export wrote, of which a Python file is run. Images are prepared as those of the
training. Where they lie in folders named after classes, the accuracy is said too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from asose_fast.bounds import Bounds, check_value
from asose_fast.command import Parser, command
from asose_fast.paths import given_path
from asose_fast.predict.predictions import Predictions
from asose_fast.predict.predictor import Predictor
from asose_fast.predict.table import ENCODE, shown
from asose_fast.report import intervals, svg
from asose_fast.store import run_folder
from asose_fast.store.checkpoint import write_atomically
from asose_fast.terminal import make_console

ROWS = 20
"""The console shows so many images where a file has them all."""


@command
def main(arguments: Sequence[str]) -> int:
    """Predicts, writes and prints. Returns the exit status: 0, or 2 after an error."""
    parser = Parser("predict", __doc__)
    parser.add_argument("network", metavar="NETWORK", help="A run folder, or a .py, .pt2 or .onnx of export.")
    parser.add_argument(
        "images", metavar="IMAGES", nargs="+", help="Image files, folders (searched to any depth) or csv:PATH."
    )
    parser.add_argument("--out", metavar="FILE", help="A .csv or .json to write; default: the console alone.")
    parser.add_argument(
        "--top", type=int, metavar="K", help="The file has the K most probable classes; default: the values of all."
    )
    parser.add_argument("--batch_size", type=int, default=64, metavar="N", help="So many images at once; default: 64.")
    parser.add_argument("--overwrite", action="store_true", help="Replace a file that is there already.")
    given = parser.parse_args(arguments)
    check_value("top", given.top, int | None, Bounds(least=1, most=10**6))
    out = None if given.out is None else given_path(given.out)
    if out is not None:
        if out.suffix not in ENCODE:
            raise ValueError(f"--out must end in {' or '.join(ENCODE)}, got {out}")
        if not given.overwrite:
            run_folder.require_absent([out], "give another --out, or --overwrite to replace it")
    predictor = Predictor(given.network)
    found = predictor.predict(given.images, batch_size=given.batch_size)
    console = make_console()
    for note in predictor.notes:
        console.print(note, soft_wrap=True)
    console.print(shown(found, most=None if out is None else ROWS))
    if said := _measured(found):
        console.print(said, soft_wrap=True)
    if out is not None:
        with run_folder.claimed_file(out):
            write_atomically(out, ENCODE[out.suffix](found, given.top).encode(errors="surrogateescape"))
        console.print(f"wrote {out}, {len(found):,} images", soft_wrap=True)
    return 0


def _measured(found: Predictions) -> str | None:
    """Says the accuracy, with its interval, where classes are known."""
    accuracy, count = found.accuracy, found.labelled
    if accuracy is None:
        return None
    low, high = intervals.of_share(accuracy, count)
    which = "" if count == len(found) else f" {count:,} of the"
    return (
        f"accuracy {svg.percent(accuracy)} [{100 * low:.1f}, {100 * high:.1f}] of{which} {len(found):,} images, by the "
        "class folders or tables that they are in"
    )


if __name__ == "__main__":
    sys.exit(main())
