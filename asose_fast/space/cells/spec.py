"""A network of cells is built from this, before and after an architecture has been chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from asose_fast.bounds import MOST_CHANNELS, MOST_LAYERS, Bounds, check_value
from asose_fast.config import SpaceConfig

Kind = Literal["darts", "nasbench201"]
STEPS = {"darts": 4, "nasbench201": 3}
"""So many nodes of a cell are computed."""
INPUTS = {"darts": 2, "nasbench201": 1}
"""So many nodes of a cell are given."""
DEFAULT_CELLS = {"darts": 8, "nasbench201": 5}


@dataclasses.dataclass(frozen=True)
class Edge:
    """An edge is a mixed operation from node `source` to node `target` of a cell. Inputs are the first nodes."""

    target: int
    source: int
    candidates: tuple[str, ...]


def complete(kind: Kind, candidates: tuple[str, ...]) -> tuple[Edge, ...]:
    """Returns all edges of a cell, in the order of the rows of alpha: by target, then by source."""
    first = INPUTS[kind]
    nodes = range(first, first + STEPS[kind])
    return tuple(Edge(target, source, candidates) for target in nodes for source in range(target))


@dataclasses.dataclass(frozen=True)
class CellNetworkSpec:
    """A spec is everything that a network of cells is built from. `to_dict` and `from_dict` go through JSON.

    All normal cells share their architecture, and so do all reduction cells; the rows of alpha are those of `normal`,
    then those of `reduction` (none in NAS-Bench-201, whose resolution falls in fixed blocks).
    """

    kind: Kind
    in_channels: int
    classes: int
    channels: int
    """The nodes of the first cells have so many channels."""
    cells: int
    """This counts all cells (darts), or those of each of the three stages (nasbench201)."""
    normal: tuple[Edge, ...]
    reduction: tuple[Edge, ...] = ()
    affine: bool = False
    """Norms may have a scale and a shift of their own, as in networks that are trained from scratch."""

    @staticmethod
    def supernet(config: SpaceConfig, in_channels: int, classes: int) -> CellNetworkSpec:
        """Returns the supernet of `config`, for images of `in_channels` channels. Raises ValueError for equal
        candidates."""
        if len(set(config.candidates)) != len(config.candidates):
            raise ValueError(f"candidates must differ from each other, got {', '.join(config.candidates)}")
        if config.space not in ("darts", "nasbench201"):
            raise ValueError(f"the space {config.space} has no cells")
        edges = complete(config.space, config.candidates)
        reduction = edges if config.space == "darts" else ()
        cells = config.cells or DEFAULT_CELLS[config.space]
        return CellNetworkSpec(config.space, in_channels, classes, config.channels, cells, edges, reduction)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Returns the edges, one for each row of alpha."""
        return self.normal + self.reduction

    @property
    def rows(self) -> int:
        """Returns the number of rows of alpha."""
        return len(self.edges)

    @property
    def derived(self) -> bool:
        """Says whether no choice is left."""
        return all(len(edge.candidates) == 1 for edge in self.edges)

    @property
    def operations(self) -> tuple[str, ...]:
        """Returns the candidate of every edge of a derived network."""
        return tuple(edge.candidates[0] for edge in self.edges)

    def derive(self, path: Sequence[int]) -> CellNetworkSpec:
        """Returns the spec with candidate path[i] alone on edge i, and without the edges where it is -1."""
        taken = [
            dataclasses.replace(edge, candidates=(edge.candidates[k],)) if k >= 0 else None
            for edge, k in zip(self.edges, path, strict=True)
        ]
        count = len(self.normal)
        normal, reduction = (tuple(e for e in part if e is not None) for part in (taken[:count], taken[count:]))
        return dataclasses.replace(self, normal=normal, reduction=reduction)

    def scaled(self, channels: int | None) -> CellNetworkSpec:
        """Returns the spec with other channels, or as it is."""
        return self if channels is None else dataclasses.replace(self, channels=channels)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and numbers."""
        values = dataclasses.asdict(self)
        for part in ("normal", "reduction"):
            values[part] = [{**edge, "candidates": list(edge["candidates"])} for edge in values[part]]
        return values

    @staticmethod
    def from_dict(values: dict[str, Any]) -> CellNetworkSpec:
        """Inverts `to_dict`. Raises KeyError, TypeError or ValueError where something is missing or wrong."""
        parts = {
            part: tuple(Edge(**{**edge, "candidates": tuple(edge["candidates"])}) for edge in values[part])
            for part in ("normal", "reduction")
        }
        spec = CellNetworkSpec(**{**values, **parts})
        spec.check()
        return spec

    def check(self) -> None:
        """Raises ValueError for what is no network."""
        if self.kind not in STEPS:
            raise ValueError(f"kind must be one of {', '.join(STEPS)}, got {self.kind!r}")
        for name in ("in_channels", "classes", "channels"):
            check_value(name, getattr(self, name), int, Bounds(least=1, most=MOST_CHANNELS))
        check_value("cells", self.cells, int, Bounds(least=1, most=MOST_LAYERS))
        check_value("affine", self.affine, bool)
        first, last = INPUTS[self.kind], INPUTS[self.kind] + STEPS[self.kind] - 1
        for edge in self.edges:
            whole = type(edge.source) is int and type(edge.target) is int
            if not (whole and first <= edge.target <= last and 0 <= edge.source < edge.target):
                raise ValueError(
                    f"no edge leads from node {edge.source!r} to node {edge.target!r} of a {self.kind} cell"
                )
        most, found = len(complete(self.kind, ())), max(len(self.normal), len(self.reduction))
        if found > most:
            raise ValueError(f"a {self.kind} cell has {most} edges at most, got {found}")
        if not self.normal or (self.kind == "darts") != bool(self.reduction):
            raise ValueError(f"a network of {self.kind} cells has edges in its normal cells, and darts in both kinds")
