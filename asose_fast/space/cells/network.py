"""DARTS (arXiv 1806.09055) and NAS-Bench-201 (arXiv 2001.00326) are networks of cells, here on the fused mixed
operation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import NoneType

import torch
from torch import Tensor, nn

from asose_fast.space.candidates import FactorizedReduce
from asose_fast.space.cells.spec import INPUTS, STEPS, CellNetworkSpec, Edge
from asose_fast.space.convolution import Conv2d
from asose_fast.space.global_average import GlobalAverage
from asose_fast.space.mixed import MixedOp
from asose_fast.space.parts import run_on_kernels
from asose_fast.space.replay import Launches, Part, replayable, sequence
from asose_fast.space.supernet import Supernet

STEM_MULTIPLIER = 3
"""The stem of DARTS has so many times the channels of the first cells."""


class CellPlan:
    """A plan has the rows of alpha that a cell runs, each as MixedOp takes it, and what is known of the launches of a
    network's parts, if they are to run from these."""

    def __init__(
        self,
        launches: Launches | None,
        weights: Tensor | None,
        path: Sequence[int] | None,
        kept: Sequence[tuple[int, ...]] | None,
        rows: slice,
    ) -> None:
        self._launches = launches
        self._weights = None if weights is None else weights[rows].unbind()
        self._path = None if path is None else path[rows]
        self._kept = None if kept is None else kept[rows]

    def run(self, row: int, op: nn.Module, x: Tensor) -> Tensor | None:
        """Returns the output of a row's mixed operation, and None where a path has it left out."""
        index = None if self._path is None else self._path[row]
        if index is not None and index < 0:
            return None
        weights = None if self._weights is None else self._weights[row]
        if self._launches is None or type(op) is not MixedOp or type(index) not in (int, NoneType):
            y: Tensor = op(x, weights, index, None if self._kept is None else self._kept[row])
            return y
        modules = functools.partial(op.running, index, weights is not None)
        return self._launches.run([Part(functools.partial(_mix, op, index), op, index, modules, weights)], x)

    def through(self, modules: nn.Module, x: Tensor) -> Tensor:
        """Returns the output of a sequence of modules."""
        return run_on_kernels(modules, x) if self._launches is None else self._launches.run([sequence(modules)], x)


def _mix(op: MixedOp, index: int | None, x: Tensor, weights: Tensor | None = None) -> Tensor:
    y: Tensor = op(x, weights, index)
    return y


class Cell(nn.Module):
    """A cell has nodes, each the sum of the mixed operations on its edges."""

    def __init__(self, edges: Sequence[Edge], channels: int, inputs: int, steps: int, stride: int) -> None:
        super().__init__()
        self.edges, self.inputs, self.steps = tuple(edges), inputs, steps
        strides = [stride if edge.source < inputs else 1 for edge in edges]
        self.ops = nn.ModuleList(
            MixedOp.named(edge.candidates, channels, s) for edge, s in zip(edges, strides, strict=True)
        )
        self.drop_path = 0.0
        """In training, an image loses the output of an edge with this probability, skip_connect excepted."""

    def mixed_edges(self) -> list[MixedOp]:
        """Returns the mixed operations of the edges, typed."""
        return [op for op in self.ops if isinstance(op, MixedOp)]

    def nodes(self, given: list[Tensor], plan: CellPlan) -> list[Tensor]:
        """Returns the values of the computed nodes, (N, C, H, W) each."""
        states = list(given)
        for target in range(self.inputs, self.inputs + self.steps):
            terms = []
            for row, (edge, op) in enumerate(zip(self.edges, self.ops, strict=True)):
                if edge.target != target:
                    continue
                y = plan.run(row, op, states[edge.source])
                if y is not None:
                    terms.append(self._dropped(y, edge))
            states.append(sum(terms[1:], terms[0]) if terms else torch.zeros_like(states[-1]))
        return states[self.inputs :]

    def _dropped(self, y: Tensor, edge: Edge) -> Tensor:
        if not (self.training and self.drop_path) or edge.candidates == ("skip_connect",):
            return y
        kept = torch.rand(len(y), 1, 1, 1, device=y.device, dtype=y.dtype) >= self.drop_path
        return y * kept / (1 - self.drop_path)


class DartsCell(Cell):
    """This cell takes the two cells before, brought to `channels`. It concatenates its 4 nodes."""

    def __init__(
        self, edges: Sequence[Edge], before: int, last: int, channels: int, *, reduces: bool, after_reduction: bool
    ) -> None:
        """`before` and `last` are the channels of the last cell but one and of the last."""
        super().__init__(edges, channels, INPUTS["darts"], STEPS["darts"], 2 if reduces else 1)
        self.reduces = reduces
        self.before = FactorizedReduce(before, channels) if after_reduction else _relu_conv_norm(before, channels)
        self.last = _relu_conv_norm(last, channels)

    def forward(self, before: Tensor, last: Tensor, plan: CellPlan) -> Tensor:
        return torch.cat(self.nodes([plan.through(self.before, before), plan.through(self.last, last)], plan), 1)


class BenchCell(Cell):
    """This cell has one input and 3 nodes, of which the last is the output."""

    def __init__(self, edges: Sequence[Edge], channels: int) -> None:
        super().__init__(edges, channels, INPUTS["nasbench201"], STEPS["nasbench201"], 1)

    def forward(self, x: Tensor, plan: CellPlan) -> Tensor:
        return self.nodes([x], plan)[-1]


class Reduction(nn.Module):
    """The block between stages of NAS-Bench-201 has two 3x3 convolutions beside 2x2 means and a 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = _relu_conv_norm(in_channels, out_channels, 3, 2)
        self.last = _relu_conv_norm(out_channels, out_channels, 3)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = run_on_kernels(self.last, run_on_kernels(self.first, x)) + self.shortcut(x)
        return y


def _relu_conv_norm(in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        Conv2d(in_channels, out_channels, kernel, stride),
        nn.BatchNorm2d(out_channels, affine=False),
    )


class CellNetwork(Supernet):
    """A network of cells has a stem, cells, global average pooling and a classifier."""

    def __init__(self, spec: CellNetworkSpec) -> None:
        super().__init__()
        self._spec, self._launches = spec, Launches()
        self.cells = nn.ModuleList()
        features = self._darts() if spec.kind == "darts" else self._nasbench201()
        last = [nn.BatchNorm2d(features), nn.ReLU()] if spec.kind == "nasbench201" else []
        self.head = nn.Sequential(*last, GlobalAverage(), nn.Flatten(), nn.Linear(features, spec.classes))
        if spec.affine:
            _make_affine(self)

    @property
    def spec(self) -> CellNetworkSpec:
        """What the network was built from."""
        return self._spec

    def _stem(self, channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(self.spec.in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def _darts(self) -> int:
        spec, channels = self.spec, self.spec.channels
        before = last = STEM_MULTIPLIER * channels
        self.stem = self._stem(last)
        after_reduction = False
        for i in range(spec.cells):
            reduces = i in (spec.cells // 3, 2 * spec.cells // 3) and spec.cells > 1
            channels *= 2 if reduces else 1
            edges = spec.reduction if reduces else spec.normal
            self.cells.append(
                DartsCell(edges, before, last, channels, reduces=reduces, after_reduction=after_reduction)
            )
            before, last, after_reduction = last, STEPS["darts"] * channels, reduces
        return last

    def _nasbench201(self) -> int:
        spec, channels = self.spec, self.spec.channels
        self.stem = self._stem(channels)
        for stage in range(3):
            if stage:
                self.cells.append(Reduction(channels, 2 * channels))
                channels *= 2
            self.cells.extend(BenchCell(spec.normal, channels) for _ in range(spec.cells))
        return channels

    def mixed_cells(self) -> list[Cell]:
        """Returns the cells that have edges, typed."""
        return [cell for cell in self.cells if isinstance(cell, Cell)]

    @property
    def operations(self) -> tuple[str, ...]:
        """Returns the operations of a derived network, edge by edge."""
        return self.spec.operations

    @property
    def depth(self) -> int:
        """Returns the number of cells."""
        return len(self.mixed_cells())

    @property
    def middle(self) -> tuple[nn.Module, int]:
        """Returns the module two thirds of the way through, and the channels of its output."""
        cell = self.cells[2 * len(self.cells) // 3]
        if isinstance(cell, DartsCell):
            return cell, cell.last[1].out_channels * STEPS["darts"]  # type: ignore[index]
        return cell, 4 * self.spec.channels

    def set_drop_path(self, probability: float) -> None:
        """Sets `drop_path` of every edge."""
        for cell in self.mixed_cells():
            cell.drop_path = probability

    def forward(
        self,
        x: Tensor,
        weights: Tensor | None = None,
        path: Sequence[int] | None = None,
        kept: Sequence[tuple[int, ...]] | None = None,
    ) -> Tensor:
        """Returns class scores (N, classes) of images (N, in_channels, H, W).

        `weights` (rows, K), `path` (rows) and `kept` (rows) choose the plan of every edge as in MixedOp, the same in
        all cells of a kind; an edge of path -1 is left out. A derived network needs none of them.
        """
        path = path.tolist() if isinstance(path, Tensor) else path
        launches = self._launches if kept is None and replayable(x) else None
        count = len(self.spec.normal)
        normal, reduction = (
            CellPlan(launches, weights, path, kept, rows) for rows in (slice(count), slice(count, None))
        )
        x = normal.through(self.stem, x)
        before = x
        for cell in self.cells:
            if isinstance(cell, DartsCell):
                mine = reduction if cell.reduces else normal
                before, x = x, cell(before, x, mine)
            else:
                x = cell(x, normal) if isinstance(cell, BenchCell) else cell(x)
        return normal.through(self.head, x)

    def choose(self, scores: Tensor) -> list[int]:
        """Returns the path of the best architecture by `scores` (rows, K). On every edge it takes the candidate of
        largest score. In DARTS, `none` is excepted, and every node keeps the two edges where that score is largest,
        with -1 for the others."""
        if self.spec.kind == "nasbench201":
            path: list[int] = scores.argmax(1).tolist()
            return path
        edges = self.spec.edges
        names = edges[0].candidates
        if "none" in names:
            scores = scores.clone()
            scores[:, names.index("none")] = -torch.inf
        best = scores.max(1)
        strength, path = best.values.tolist(), best.indices.tolist()
        count = len(self.spec.normal)
        for first, part in ((0, edges[:count]), (count, edges[count:])):
            for target in {edge.target for edge in part}:
                rows = [first + i for i, edge in enumerate(part) if edge.target == target]
                for row in sorted(rows, key=lambda r: -strength[r])[2:]:
                    path[row] = -1
        return path

    def derive(self, path: Sequence[int]) -> CellNetwork:
        """Returns the network with one candidate an edge, and without edges of path -1. Its modules are this network's
        own."""
        with torch.device("meta"):
            derived = CellNetwork(self.spec.derive(path))
        count = len(self.spec.normal)
        for mine, new in zip(self.mixed_cells(), derived.mixed_cells(), strict=True):
            part = path[count:] if isinstance(mine, DartsCell) and mine.reduces else path[:count]
            chosen = [(op, k) for op, k in zip(mine.ops, part, strict=True) if k >= 0]
            for (op, k), single in zip(chosen, new.ops, strict=True):
                assert isinstance(op, MixedOp)
                assert isinstance(single, MixedOp)
                name = list(op.ops)[k]
                single.ops[name] = op.ops[name]
            if isinstance(mine, DartsCell) and isinstance(new, DartsCell):
                new.before, new.last = mine.before, mine.last
        for i, cell in enumerate(self.cells):
            if isinstance(cell, Reduction):
                derived.cells[i] = cell
        derived.stem, derived.head = self.stem, self.head
        derived.train(self.training)
        return derived


def _make_affine(module: nn.Module) -> None:
    """Gives every norm a scale and a shift, but takes away those of pools, as in the published evaluation networks."""
    for name, child in module.named_children():
        if name in ("avg_pool_3x3", "max_pool_3x3") and isinstance(child, nn.Sequential):
            setattr(module, name, child[0])
        elif isinstance(child, nn.BatchNorm2d) and not child.affine:
            setattr(module, name, nn.BatchNorm2d(child.num_features, child.eps, child.momentum))
        else:
            _make_affine(child)
