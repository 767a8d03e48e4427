"""front.json holds a front: what it consists of, how it is trained, and what each network has come to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

from asose_fast import files
from asose_fast.bounds import check_value
from asose_fast.engine.alpha.budget import PER_MILLISECOND
from asose_fast.engine.comparison.trained import Trained, percent
from asose_fast.engine.comparison.trainings import Trainings, shared
from asose_fast.engine.front.networks import By
from asose_fast.space.build import spec_from_dict
from asose_fast.space.network import NetworkSpec

FOLDER, FILE, NAME = "front", "front.json", "network"
"""A front lies in this folder of a run, in this file; its networks have this name and a number."""
UNITS = {"flops": (1e6, "MFLOPs"), "parameters": (1, "parameters"), "latency": (PER_MILLISECOND, "ms")}


@dataclasses.dataclass(kw_only=True)
class Front(Trainings):
    """What is trained, how, and what has come out so far."""

    WHAT, FILE = "front", FILE
    FOLDERS = (f"{NAME}-*",)

    by: By
    drawn: dict[str, Any]
    """Widths and number of bounds, as they were asked for."""
    specs: list[dict[str, Any]]
    """Of the networks, the one of the most FLOPs first."""

    @property
    def names(self) -> list[str]:
        return [f"{NAME}-{i + 1}" for i in range(len(self.specs))]

    @property
    def asked(self) -> list[Any]:
        return [self.by, self.drawn, self.specs]

    def keep(self, network: Trained) -> None:
        """Adds a network that is trained. Raises ValueError where it lacks the cost that the front goes by."""
        if getattr(network, self.by) is None:
            raise ValueError(f"a front by {self.by} needs that of {network.name}; the same command measures it again")
        super().keep(network)

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
        if self.missing:
            return []
        front = [f"{one.name} {percent(one.test_accuracy)} at {self.cost(one)}" for one in self.best]
        many = "1 network is" if len(front) == 1 else f"{len(front)} networks are"
        return [f"{many} on the front of test accuracy and {UNITS[self.by][1]}: {', '.join(front)}"]


def load(folder: Path) -> Front:
    """Reads front.json of a folder. Raises OSError and ValueError, which name the file."""
    return files.parsed_json(folder / FILE, _parsed)


def _parsed(values: dict[str, Any]) -> Front:
    found = Front(**shared(values))
    for name, kind in (("by", By), ("drawn", dict), ("specs", list)):
        check_value(name, getattr(found, name), kind)
    found.network_specs()
    found.check()
    for one, spec in zip(found.networks, found.specs, strict=False):
        if one.network != spec:
            raise ValueError("its networks are not those that it is to have")
        check_value(found.by, getattr(one, found.by), int)
    return found
