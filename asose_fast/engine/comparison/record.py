"""compare.json holds a comparison: what is compared and how, and each network that is trained."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from asose_fast import files
from asose_fast.bounds import MOST_EPOCHS, Bounds, check_value
from asose_fast.engine.comparison import networks
from asose_fast.engine.comparison.networks import Band
from asose_fast.engine.comparison.trained import Trained, percent
from asose_fast.engine.comparison.verdict import Difference, conclusion, difference
from asose_fast.space.latency import Target
from asose_fast.store.checkpoint import write_json

FOLDER, FILE = "compare", "compare.json"
"""A comparison lies in this folder of a run, in this file."""
MOST_RANDOM = 1000
"""A comparison has at most so many random networks."""
FOUND, RANDOM, PLAIN = "found", "random", "plain"


def names_of(random: int) -> list[str]:
    """Returns the names of the networks of a comparison, in the order in which they are trained."""
    return [FOUND, PLAIN, *(f"{RANDOM}-{i + 1}" for i in range(random))]


class Outcome(NamedTuple):
    """The differences to the random networks and to the plain one, where all are trained."""

    random: Difference
    plain: Difference


@dataclasses.dataclass
class Comparison:
    """What is compared, how, and what has come out so far."""

    settings: dict[str, Any]
    """All networks are trained with these."""
    data: str
    """The digest of the images."""
    random: int
    """So many networks are drawn."""
    band: Band
    found: dict[str, Any]
    """The spec of the found network, without blocks that compute nothing."""
    images: int
    """All networks are trained on so many images."""
    test_images: int
    target: Target | None = None
    """Latencies are measured there; None: an older release measured none."""
    networks: list[Trained] = dataclasses.field(default_factory=list)
    """Those that are trained."""

    def accuracies(self, kind: str) -> list[float]:
        """Returns the test accuracies of the networks of one kind that are trained."""
        return [network.test_accuracy for network in self.networks if network.name.partition("-")[0] == kind]

    @property
    def epochs(self) -> int:
        """Returns how many epochs each training has."""
        epochs: int = self.settings["epochs"]
        return epochs

    @property
    def total(self) -> int:
        """Returns how many networks are compared."""
        return self.random + 2

    @property
    def outcome(self) -> Outcome | None:
        """Returns what has come out; None while a network is missing."""
        if len(self.networks) < self.total:
            return None
        (found,), random, plain = map(self.accuracies, (FOUND, RANDOM, PLAIN))
        return Outcome(*(difference(found, others, random, self.test_images) for others in (random, plain)))

    @property
    def sentences(self) -> list[str]:
        """Says what has come out; nothing while a network is missing."""
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

    def save(self, folder: Path) -> None:
        """Writes compare.json. Raises CheckpointError."""
        pairs = {"band": self.band._asdict(), "target": self.target and self.target._asdict()}
        write_json(folder / FILE, {**dataclasses.asdict(self), **pairs, "says": self.sentences})


def load(folder: Path) -> Comparison:
    """Reads compare.json of a folder. Raises OSError and ValueError, which name the file."""
    return files.parsed_json(folder / FILE, _parsed)


def _parsed(values: dict[str, Any]) -> Comparison:
    values = {name: value for name, value in values.items() if name != "says"}
    trained = [Trained(**network) for network in values.pop("networks")]
    target = None if values.get("target") is None else Target(**values["target"])
    found = Comparison(**{**values, "band": Band(**values["band"]), "target": target}, networks=trained)
    many = Bounds(least=2, most=MOST_RANDOM)
    for name, kind, bounds in (
        ("settings", dict, None),
        ("data", str, None),
        ("random", int, many),
        ("found", dict, None),
    ):
        check_value(name, getattr(found, name), kind, bounds)
    for name in ("images", "test_images"):
        check_value(name, getattr(found, name), int, Bounds(least=1, most=10**12))
    for name, value in found.band._asdict().items():
        check_value(f"band of {name}", value, float, Bounds(above=0, most=1))
    check_value("epochs", found.settings.get("epochs"), int, Bounds(least=1, most=MOST_EPOCHS))
    names = [network.name for network in trained]
    if names != names_of(found.random)[: len(names)]:
        raise ValueError(f"the networks are {', '.join(names)}")
    return found
