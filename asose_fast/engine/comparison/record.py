"""compare.json holds a comparison: what is compared and how, and each network that is trained."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from asose_fast import files
from asose_fast.bounds import Bounds, check_value
from asose_fast.engine.comparison import networks
from asose_fast.engine.comparison.networks import Band
from asose_fast.engine.comparison.trained import percent
from asose_fast.engine.comparison.trainings import Trainings, shared
from asose_fast.engine.comparison.verdict import Difference, conclusion, difference

FOLDER, FILE = "compare", "compare.json"
"""A comparison lies in this folder of a run, in this file."""
MOST_RANDOM = 1000
"""A comparison has at most so many random networks."""
FOUND, RANDOM, PLAIN = "found", "random", "plain"


class Outcome(NamedTuple):
    """The differences to the random networks and to the plain one, where all are trained."""

    random: Difference
    plain: Difference


@dataclasses.dataclass(kw_only=True)
class Comparison(Trainings):
    """What is compared, how, and what has come out so far."""

    WHAT, FILE = "comparison", FILE
    FOLDERS = (FOUND, PLAIN, f"{RANDOM}-*")

    random: int
    """So many networks are drawn."""
    band: Band
    found: dict[str, Any]
    """The spec of the found network, without blocks that compute nothing."""

    @property
    def names(self) -> list[str]:
        return [FOUND, PLAIN, *(f"{RANDOM}-{i + 1}" for i in range(self.random))]

    @property
    def asked(self) -> list[Any]:
        return [self.found]

    def accuracies(self, kind: str) -> list[float]:
        """Returns the test accuracies of the networks of one kind that are trained."""
        return [network.test_accuracy for network in self.networks if network.name.partition("-")[0] == kind]

    @property
    def outcome(self) -> Outcome | None:
        """Returns what has come out; None while a network is missing."""
        if self.missing:
            return None
        (found,), random, plain = map(self.accuracies, (FOUND, RANDOM, PLAIN))
        return Outcome(*(difference(found, others, random, self.test_images) for others in (random, plain)))

    @property
    def sentences(self) -> list[str]:
        if (outcome := self.outcome) is None:
            return []
        (found,), random, (plain,) = map(self.accuracies, (FOUND, RANDOM, PLAIN))
        drawn = f"{percent(statistics.fmean(random))} ± {100 * statistics.stdev(random):.1f} (n={len(random)})"
        begin = f"found network {percent(found)},"
        return [
            f"{begin} random networks of its size {drawn}: {outcome.random.words}",
            f"{begin} plain network of its size ({self._plain}) {percent(plain)}: {outcome.plain.words}",
            conclusion(*outcome),
        ]

    @property
    def _plain(self) -> str:
        """Says which plain network is compared."""
        operations = next(network.operations for network in self.networks if network.name == PLAIN)
        return networks.PLAIN.get(operations[0], operations[0])

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "band": self.band._asdict()}


def load(folder: Path) -> Comparison:
    """Reads compare.json of a folder. Raises OSError and ValueError, which name the file."""
    return files.parsed_json(folder / FILE, _parsed)


def _parsed(values: dict[str, Any]) -> Comparison:
    found = Comparison(**{**shared(values), "band": Band(**values["band"])})
    check_value("random", found.random, int, Bounds(least=2, most=MOST_RANDOM))
    check_value("found", found.found, dict)
    for name, value in found.band._asdict().items():
        check_value(f"band of {name}", value, float, Bounds(above=0, most=1))
    found.check()
    return found
