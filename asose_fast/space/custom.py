"""Any network with mixed operations in it can be a supernet."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from asose_fast.space.copying import deepcopy
from asose_fast.space.mixed import MixedOp, Plan
from asose_fast.space.supernet import Supernet

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class CustomSpec:
    """This says what a network was derived from, if it was."""

    rows: int
    """The network has so many mixed operations."""
    path: tuple[int, ...] | None = None
    """A derived network has these candidates. With None it is a supernet."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {"rows": self.rows, "path": None if self.path is None else list(self.path)}


class CustomNetwork(Supernet):
    """This is a user's `model` with the forward pass of a supernet. Row l of the tables belongs to the l-th mixed
    operation.

    Mixed operations may be anywhere among the submodules, in each other's candidates too, and have candidates of their
    own in any number. One that is used twice, or has two names, has one row. The K columns are the names of all
    candidates, in the order in which they are met; `available` says which of them a row has.
    """

    def __init__(self, model: nn.Module) -> None:
        """Raises ValueError for a model without mixed operations."""
        super().__init__()
        self.model = model
        self.mixed = {name: op for name, op in model.named_modules() if isinstance(op, MixedOp)}
        """The mixed operations have the names that they have in `model`, the first of each. A derived network has
        none."""
        if not self.mixed:
            raise ValueError(
                "the model has no mixed operation: there is nothing to search. Put an asose_fast.MixedOp in"
            )
        self.candidates = tuple(dict.fromkeys(name for op in self.mixed.values() for name in op.ops))
        self.columns = [[self.candidates.index(name) for name in op.ops] for op in self.mixed.values()]
        """Each row has the columns of its candidates, in their own order."""
        self._spec = CustomSpec(len(self.mixed))

    @property
    def spec(self) -> CustomSpec:
        """Says whether, and along which path, the network was derived."""
        return self._spec

    @property
    def available(self) -> Tensor:
        """Returns which candidates a row has, bool (L, K)."""
        table = torch.zeros(len(self.columns), len(self.candidates), dtype=torch.bool)
        for row, columns in zip(table, self.columns, strict=True):
            row[columns] = True
        return table

    def by_column(self, own: Sequence[Sequence[T]]) -> list[list[T]]:
        """Returns a table of L rows and K columns from what each row has for its own candidates. Where a row does not
        have a candidate, what its first one has stands, so that it gains nothing there."""
        table = [[values[0]] * len(self.candidates) for values in own]
        for row, columns, values in zip(table, self.columns, own, strict=True):
            for column, value in zip(columns, values, strict=True):
                row[column] = value
        return table

    def choose(self, scores: Tensor) -> list[int]:
        """Returns the candidate of largest score in every row of `scores` (L, K)."""
        path: list[int] = scores.argmax(1).tolist()
        return path

    def plan(
        self,
        weights: Tensor | None = None,
        path: Sequence[int] | None = None,
        kept: Sequence[Sequence[int]] | None = None,
    ) -> None:
        """Has every mixed operation run, from now on, its row of the tables (as in MixedOp). Without tables it has no
        plan."""
        for row, (op, columns) in enumerate(zip(self.mixed.values(), self.columns, strict=True)):
            if weights is None and path is None:
                op.plan = None
                continue
            op.plan = Plan(
                None if weights is None else _columns(weights[row], columns),
                None if path is None else columns.index(path[row]),
                None if kept is None else tuple(columns.index(k) for k in kept[row] if k in columns),
            )

    def forward(
        self,
        x: Any,
        weights: Tensor | None = None,
        path: Sequence[int] | None = None,
        kept: Sequence[Sequence[int]] | None = None,
    ) -> Any:
        """Returns what the model returns for x under a plan."""
        if self.spec.path is None:
            self.plan(weights, path, kept)
        return self.model(x)

    @property
    def operations(self) -> tuple[str, ...]:
        """Returns the names of a derived network's candidates."""
        if self.spec.path is None:
            raise ValueError("a supernet has no operations yet: derive it first")
        return tuple(self.candidates[k] for k in self.spec.path)

    def derive(self, path: Sequence[int]) -> CustomNetwork:
        """Returns the network with candidate `path[l]` in place of mixed operation l. It consists of plain modules. Its
        structure is copied, but its parameters and buffers are this network's own."""
        shared = {id(tensor): tensor for tensor in (*self.model.parameters(), *self.model.buffers())}
        memo: dict[int, Any] = dict(shared)
        chosen = zip(self.mixed.values(), self.columns, path, strict=True)
        for op, columns, k in sorted(chosen, key=lambda entry: _depth(entry[0])):  # the inner ones first
            memo[id(op)] = deepcopy(list(op.ops.values())[columns.index(k)], memo)
        derived = copy.copy(self)
        derived._modules, derived.mixed = {"model": deepcopy(self.model, memo)}, {}
        derived._spec = CustomSpec(self.spec.rows, tuple(path))
        derived.train(self.training)
        return derived

    def genotype(self, path: Sequence[int]) -> dict[str, str]:
        """Returns the name of the chosen candidate by the name of its mixed operation. It has only those that are part
        of the derived network, and none within a candidate that was not chosen."""
        names = {id(op): name for name, op in self.mixed.items()}
        rows = {id(op): row for row, op in enumerate(self.mixed.values())}
        found: dict[str, str] = {}

        def walk(module: nn.Module) -> Iterator[MixedOp]:
            inner: Sequence[nn.Module] = list(module.children())
            if isinstance(module, MixedOp):
                yield module
                inner = [module.ops[self.candidates[path[rows[id(module)]]]]]
            for child in inner:
                yield from walk(child)

        live = {id(op) for op in walk(self.model)}
        for op, k in zip(self.mixed.values(), path, strict=True):
            if id(op) in live:
                found[names[id(op)]] = self.candidates[k]
        return found


def _columns(row: Tensor, columns: list[int]) -> Tensor:
    if columns == list(range(len(row))):
        return row
    return row[columns]


def _depth(op: MixedOp) -> int:
    """Returns how many mixed operations it holds, itself included. That is more than any of those within it holds."""
    return sum(isinstance(module, MixedOp) for module in op.modules())
