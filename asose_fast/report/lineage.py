"""A layer keeps its row in a table of layers over epochs while the network grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from asose_fast.report.epochs import Epoch

T = TypeVar("T")


def rows(epochs: Sequence[Epoch], values: Sequence[Sequence[T]]) -> list[list[T | None]]:
    """Returns the values of every layer. A row is a layer, in the order of the last network, and a column is an epoch.

    A layer that growth inserts gets a row of its own, empty until then, and those behind it keep theirs.

    Args:
        epochs: L_e layers at epoch e, which grows when it ends.
        values: of each epoch, one a layer; an epoch without any leaves its column empty.
    """
    present: list[int] = []
    order: list[int] = []
    known: dict[int, list[int]] = {}
    columns: list[dict[int, T]] = []
    for epoch, column in zip(epochs, values, strict=True):
        if column and len(column) != len(present):
            present = known.get(len(column)) or _resized(present, order, len(column))
        known[len(present)] = present
        columns.append(dict(zip(present, column, strict=False)))
        position = epoch.growth.get("position")
        if epoch.growth.get("kind") == "deeper" and type(position) is int and 0 <= position <= len(present) > 0:
            layer = len(order)
            before = order.index(present[position - 1]) + 1 if position else 0
            order.insert(before, layer)
            present = [*present[:position], layer, *present[position:]]
    seen = {layer for column in columns for layer in column}
    return [[column.get(layer) for column in columns] for layer in order if layer in seen]


def _resized(present: list[int], order: list[int], count: int) -> list[int]:
    """Resizes for a network that no growth explains. The first layers stay, and new ones come at the end."""
    added = list(range(len(order), len(order) + max(0, count - len(present))))
    order.extend(added)
    return [*present[:count], *added]
