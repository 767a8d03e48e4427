"""Runs one of the commands: `python -m benchmarks.evidence.equal_size cells|signals ...`."""

import sys

from benchmarks.evidence.equal_size import cells, signals

PARTS = {"cells": cells.main, "signals": signals.main}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        sys.exit(f"usage: python -m benchmarks.evidence.equal_size {{{','.join(PARTS)}}} ...")
    PARTS[sys.argv.pop(1)]()
