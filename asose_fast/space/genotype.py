"""The genotype is a derived network's spec, and what must be known of the images that it takes. It goes through
JSON."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from asose_fast.bounds import MOST_SIDE, Bounds, check_value
from asose_fast.space.build import Spec, spec_from_dict
from asose_fast.space.candidates import KNOWN
from asose_fast.space.cells import CellNetworkSpec
from asose_fast.space.cells.genotype import to_text

FORMAT = "asose_fast genotype"
VERSION = 1


class UnknownCandidateError(ValueError):
    """A genotype names a candidate that this installation does not have, and may be whole."""


@dataclasses.dataclass(frozen=True)
class Genotype:
    """A genotype has all of a derived network but its weights. Raises ValueError where the parts do not fit each
    other."""

    network: Spec
    """Every block or edge has one candidate."""
    classes: tuple[str, ...]
    """Score c is that of the class named classes[c]."""
    mean: tuple[float, ...]
    """Each channel has a mean, for values from 0 to 1. The network takes (value - mean) / std."""
    std: tuple[float, ...]
    """Each channel has a standard deviation, likewise."""
    image_size: int | None = None
    """The network was trained on square images of this side, in pixels."""
    weights_sha256: str | None = None
    """The file of its weights has this digest."""

    def __post_init__(self) -> None:
        network = self.network
        network.check()
        cells = isinstance(network, CellNetworkSpec)
        parts = network.edges if isinstance(network, CellNetworkSpec) else network.blocks
        for i, candidates in enumerate(part.candidates for part in parts):
            what = f"{'edge' if cells else 'block'} {i}"
            if len(candidates) != 1:
                raise ValueError(f"{what} must have one known candidate, has ({', '.join(candidates)})")
            if not isinstance(candidates[0], str):
                raise ValueError(f"the candidate of {what} must be text, got {candidates[0]!r}")
            if candidates[0] not in KNOWN:
                raise UnknownCandidateError(
                    f"{what} has the candidate {candidates[0]!r}, which is unknown here; another release, or a table "
                    "of candidates with a line more, may know it"
                )
        if not all(isinstance(name, str) for name in self.classes):
            raise ValueError("names of classes must be strings")
        if len(self.classes) != network.classes:
            raise ValueError(f"{len(self.classes)} names of classes for {network.classes} classes")
        if not len(self.mean) == len(self.std) == network.in_channels:
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} stds for {network.in_channels} channels")
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(f"means {self.mean} must be finite and stds {self.std} positive")
        check_value("image_size", self.image_size, int | None, Bounds(least=1, most=MOST_SIDE))
        check_value("weights_sha256", self.weights_sha256, str | None)

    @property
    def operations(self) -> tuple[str, ...]:
        """Returns the candidate of every block or edge."""
        return self.network.operations

    @property
    def text(self) -> str | None:
        """Returns the text of an architecture of cells, in the format in which such are published."""
        return to_text(self.network) if isinstance(self.network, CellNetworkSpec) else None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and numbers."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "operations": list(self.operations),
            "classes": list(self.classes),
            "normalization": {"mean": list(self.mean), "std": list(self.std)},
            "image_size": self.image_size,
            "weights_sha256": self.weights_sha256,
            "text": self.text,
            "network": self.network.to_dict(),
        }

    @staticmethod
    def from_dict(values: Any) -> Genotype:
        """Inverts `to_dict`. Raises ValueError, which says what the file that they are from is, or lacks."""
        if not isinstance(values, dict) or (values.get("format"), values.get("version")) != (FORMAT, VERSION):
            raise ValueError(f"is not a genotype of asose_fast, version {VERSION}")
        try:
            return Genotype(
                spec_from_dict(values["network"]),
                tuple(values["classes"]),
                tuple(values["normalization"]["mean"]),
                tuple(values["normalization"]["std"]),
                values.get("image_size"),
                values.get("weights_sha256"),
            )
        except UnknownCandidateError as error:
            raise ValueError(f"cannot be built here: {error}") from error
        except KeyError as error:
            raise ValueError(f"is damaged: {error} is missing") from error
        except (TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"is damaged: {error}") from error
