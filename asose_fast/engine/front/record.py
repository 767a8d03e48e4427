"""front.json holds a front: what it consists of, how it is trained, and what each network has come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from asose_fast import files
from asose_fast.bounds import MOST_EPOCHS, Bounds, check_value
from asose_fast.engine.alpha.budget import PER_MILLISECOND
from asose_fast.engine.comparison.trained import Trained, percent
from asose_fast.engine.front.networks import By
from asose_fast.space.build import spec_from_dict
from asose_fast.space.latency import Target
from asose_fast.space.network import NetworkSpec
from asose_fast.store.checkpoint import write_json

FOLDER, FILE, NAME = "front", "front.json", "network"
"""A front lies in this folder of a run, in this file; its networks have this name and a number."""
UNITS = {"flops": (1e6, "MFLOPs"), "parameters": (1, "parameters"), "latency": (PER_MILLISECOND, "ms")}


@dataclasses.dataclass
class Front:
    """What is trained, how, and what has come out so far."""

    settings: dict[str, Any]
    """All networks are trained with these."""
    data: str
    """The digest of the images."""
    by: By
    target: Target
    """Latencies are measured there."""
    drawn: dict[str, Any]
    """Widths and number of bounds, as they were asked for."""
    specs: list[dict[str, Any]]
    """Of the networks, the one of the most FLOPs first."""
    images: int
    """All networks are trained on so many images."""
    test_images: int
    networks: list[Trained] = dataclasses.field(default_factory=list)
    """Those that are trained."""

    @property
    def epochs(self) -> int:
        """Returns how many epochs each training has."""
        epochs: int = self.settings["epochs"]
        return epochs

    def network_specs(self) -> list[NetworkSpec]:
        """Returns the specs of the networks. Raises ValueError where one is none."""
        found = [spec_from_dict(spec) for spec in self.specs]
        if not all(isinstance(spec, NetworkSpec) and spec.derived for spec in found):
            raise ValueError("its networks are not derived ones of blocks")
        return cast(list[NetworkSpec], found)

    @property
    def best(self) -> list[Trained]:
        """Returns the front, the cheapest first: no other network is as good for less, or better for as much."""
        kept: list[Trained] = []
        for point in sorted(self.networks, key=lambda p: (getattr(p, self.by), -p.test_accuracy)):
            if not kept or point.test_accuracy > kept[-1].test_accuracy:
                kept.append(point)
        return kept

    def cost(self, point: Trained) -> str:
        """Words what the front goes by."""
        unit, name = UNITS[self.by]
        value = getattr(point, self.by) / unit
        return f"{value:,.0f} {name}" if self.by == "parameters" else f"{value:.3g} {name}"

    @property
    def sentences(self) -> list[str]:
        """Says what has come out; nothing while a network is missing."""
        if len(self.networks) < len(self.specs):
            return []
        front = [f"{one.name} {percent(one.test_accuracy)} at {self.cost(one)}" for one in self.best]
        many = "1 network is" if len(front) == 1 else f"{len(front)} networks are"
        return [f"{many} on the front of test accuracy and {UNITS[self.by][1]}: {', '.join(front)}"]

    def save(self, folder: Path) -> None:
        """Writes front.json. Raises CheckpointError."""
        values = {**dataclasses.asdict(self), "target": self.target._asdict(), "says": self.sentences}
        write_json(folder / FILE, values)


def names_of(specs: Sequence[Any]) -> list[str]:
    """Returns the names of the networks of a front, in the order in which they are trained."""
    return [f"{NAME}-{i + 1}" for i in range(len(specs))]


def load(folder: Path) -> Front:
    """Reads front.json of a folder. Raises OSError and ValueError, which name the file."""
    return files.parsed_json(folder / FILE, _parsed)


def _parsed(values: dict[str, Any]) -> Front:
    values = {name: value for name, value in values.items() if name != "says"}
    trained = [Trained(**network) for network in values.pop("networks")]
    found = Front(**{**values, "target": Target(**values["target"])}, networks=trained)
    for name, kind in (("settings", dict), ("data", str), ("by", By), ("drawn", dict), ("specs", list)):
        check_value(name, getattr(found, name), kind)
    for name in ("images", "test_images"):
        check_value(name, getattr(found, name), int, Bounds(least=1, most=10**12))
    check_value("epochs", found.settings.get("epochs"), int, Bounds(least=1, most=MOST_EPOCHS))
    found.network_specs()
    if [(one.name, one.network) for one in trained] != list(
        zip(names_of(trained), found.specs[: len(trained)], strict=True)
    ):
        raise ValueError("its networks are not those that it is to have")
    for one in trained:
        check_value(found.by, getattr(one, found.by), int)
    return found
