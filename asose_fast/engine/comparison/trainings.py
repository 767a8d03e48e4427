"""Networks that are trained alike, from scratch: how, on what, and what each has come to."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from asose_fast.bounds import MOST_EPOCHS, Bounds, check_value
from asose_fast.config import Config, LatencyConfig
from asose_fast.engine.comparison.trained import Trained
from asose_fast.space.latency import Target
from asose_fast.store.checkpoint import write_json

_LATENCY = [field.name for field in dataclasses.fields(LatencyConfig)]


@dataclasses.dataclass(kw_only=True)
class Trainings(abc.ABC):
    """What the file of a comparison or of a front holds."""

    WHAT: ClassVar[str]
    """The record is called so, in the summary of its run too."""
    FILE: ClassVar[str]
    FOLDERS: ClassVar[tuple[str, ...]]
    """The folders of networks, beside the file, match these patterns."""

    settings: dict[str, Any]
    """All networks are trained with these, and timed."""
    data: str
    """The digest of the images."""
    images: int
    """All networks are trained on so many images."""
    test_images: int
    networks: list[Trained] = dataclasses.field(default_factory=list)
    """Those that are trained."""

    @property
    @abc.abstractmethod
    def names(self) -> list[str]:
        """Returns the names of all networks, in the order in which they are trained."""

    @property
    @abc.abstractmethod
    def asked(self) -> list[Any]:
        """Returns what has chosen the networks, besides the run. Another call must ask for the same to go on."""

    @property
    @abc.abstractmethod
    def sentences(self) -> list[str]:
        """Says what has come out; nothing while a network is missing."""

    @property
    def epochs(self) -> int:
        """Returns how many epochs each training has."""
        epochs: int = self.settings["epochs"]
        return epochs

    @property
    def target(self) -> Target:
        """Returns where latencies are measured. Raises ValueError where the settings name no such place."""
        return Target.of(LatencyConfig(**{name: self.settings[name] for name in _LATENCY}))

    @property
    def missing(self) -> int:
        """Returns how many networks are not trained yet."""
        return len(self.names) - len(self.networks)

    def keep(self, network: Trained) -> None:
        """Adds a network that is trained."""
        self.networks.append(network)

    def to_dict(self) -> dict[str, Any]:
        """What the file holds."""
        return {**dataclasses.asdict(self), "says": self.sentences}

    def save(self, folder: Path) -> None:
        """Writes the file. Raises CheckpointError."""
        write_json(folder / self.FILE, self.to_dict())

    def check(self) -> None:
        """Raises ValueError for what is none."""
        check_value("settings", self.settings, dict)
        check_value("data", self.data, str)
        for name in ("images", "test_images"):
            check_value(name, getattr(self, name), int, Bounds(least=1, most=10**12))
        check_value("epochs", self.settings.get("epochs"), int, Bounds(least=1, most=MOST_EPOCHS))
        _ = self.target
        names = [network.name for network in self.networks]
        if names != self.names[: len(names)]:
            raise ValueError(f"the networks are {', '.join(names)}")


def shared(values: dict[str, Any]) -> dict[str, Any]:
    """Returns what a file holds, with its networks as such, and without what it says.

    An earlier release said beside the settings where latencies are measured, and one before measured none.
    """
    rest = {name: value for name, value in values.items() if name not in ("says", "target", "networks")}
    target = {f"latency_{name}": value for name, value in (values.get("target") or {}).items()}
    settings = Config.completed({**target, **values["settings"]}, _LATENCY)
    return {**rest, "settings": settings, "networks": [Trained(**network) for network in values["networks"]]}
