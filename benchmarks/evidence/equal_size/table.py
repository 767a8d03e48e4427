"""The cells of NAS-Bench-201 (arXiv 2001.00326), in classes of exactly equal size.

A 3x3 convolution has nine times the weights of a 1x1 one, and the other operations have none. So a cell's parameters
and FLOPs follow from how many of both it has, and no two of these pairs come to the same.
"""

from __future__ import annotations

import csv
import gzip
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from asose_fast.config import CELL_CANDIDATES
from asose_fast.space.cells.spec import INPUTS, STEPS, complete

KIND = "nasbench201"
NAMES = CELL_CANDIDATES[KIND]
EDGES = complete(KIND, NAMES)
OUTPUT = INPUTS[KIND] + STEPS[KIND] - 1
"""The last node of a cell."""
CONVOLUTIONS = ("nor_conv_3x3", "nor_conv_1x1")
ACCURACY = "cifar10_test_200_epochs"
"""This column of the table has the truth, in percent."""

Path201 = tuple[int, ...]
"""One candidate an edge, by its number in `NAMES`."""


class Size(NamedTuple):
    """Cells of one size have so many convolutions of either kind."""

    n3: int
    n1: int


def size_of(path: Sequence[int]) -> Size:
    """Returns the size of a cell."""
    names = [NAMES[k] for k in path]
    return Size(*(names.count(name) for name in CONVOLUTIONS))


def path_of(text: str) -> Path201:
    """Returns the path of an architecture's text. Raises ValueError for what is none."""
    words = [word.partition("~")[0] for node in text.split("+") for word in node.strip("|").split("|")]
    if len(words) != len(EDGES) or not set(words) <= set(NAMES):
        raise ValueError(f"{text!r} is no cell of NAS-Bench-201")
    return tuple(map(NAMES.index, words))


def wasteful(path: Sequence[int]) -> bool:
    """Says whether a convolution of the cell lies on no way from its input to its output."""
    there = [edge for edge, k in zip(EDGES, path, strict=True) if NAMES[k] != "none"]
    reached, useful = {0}, {OUTPUT}
    for edge in there:  # in the order of their targets
        reached |= {edge.target} if edge.source in reached else set()
    for edge in reversed(there):
        useful |= {edge.source} if edge.target in useful else set()
    return any(
        NAMES[k] in CONVOLUTIONS and not (edge.source in reached and edge.target in useful)
        for edge, k in zip(EDGES, path, strict=True)
    )


class Table:
    """What every cell comes to."""

    def __init__(self, accuracies: Mapping[Path201, float]) -> None:
        """Divides the cells into classes of equal size."""
        self.accuracies = dict(accuracies)
        self.classes: dict[Size, list[Path201]] = defaultdict(list)
        for path in sorted(self.accuracies):
            self.classes[size_of(path)].append(path)

    @staticmethod
    def read(path: Path) -> Table:
        """Reads a CSV file, gzipped or not, with the columns `cell` and `ACCURACY`."""
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", newline="") as file:
            return Table({path_of(row["cell"]): float(row[ACCURACY]) for row in csv.DictReader(file)})

    def percentile(self, path: Path201, *, thrifty: bool = False) -> float:
        """Returns the share of the cells of its size that are worse than this one, equal ones as half.

        The cell itself is among the equal ones, so that the mean over a class is 1/2. With `thrifty` only cells without
        a wasted convolution are compared with.
        """
        rivals = [p for p in self.classes[size_of(path)] if not (thrifty and wasteful(p))]
        mine = self.accuracies[path]
        return statistics.mean((self.accuracies[p] < mine) + (self.accuracies[p] == mine) / 2 for p in rivals)
