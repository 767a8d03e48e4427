"""Architectures of cells are read and written as the texts in which they are published.

DARTS (quark0/darts): Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=range(2, 6), reduce=[...],
reduce_concat=range(2, 6)), two edges a node, (operation, source).
NAS-Bench-201 (arXiv 2001.00326): |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, all edges, node by node.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from asose_fast.config import CELL_CANDIDATES
from asose_fast.space.cells.spec import INPUTS, STEPS, CellNetworkSpec, Edge, Kind

NODES = tuple(range(2, 6))
"""A DARTS cell concatenates these nodes."""


def to_text(spec: CellNetworkSpec) -> str:
    """Returns the text of a derived network. Raises ValueError for one with a choice left."""
    if not spec.derived:
        raise ValueError("only a derived network has a genotype")
    if spec.kind == "nasbench201":
        nodes = range(1, 1 + STEPS[spec.kind])
        return "+".join("|" + "".join(f"{_only(e)}~{e.source}|" for e in spec.normal if e.target == n) for n in nodes)
    normal, reduction = ([(_only(edge), edge.source) for edge in edges] for edges in (spec.normal, spec.reduction))
    concat = f"range({NODES[0]}, {NODES[-1] + 1})"
    return f"Genotype(normal={normal}, normal_concat={concat}, reduce={reduction}, reduce_concat={concat})"


def _only(edge: Edge) -> str:
    return edge.candidates[0]


def from_text(
    text: str, *, in_channels: int, classes: int, channels: int, cells: int, affine: bool = True
) -> CellNetworkSpec:
    """Returns the network of a text in either format, of any size. Raises ValueError, which says what is wrong with
    it."""
    text = text.strip()
    kind: Kind = "nasbench201" if text.startswith("|") else "darts"
    normal, reduction = (_nasbench201(text), ()) if kind == "nasbench201" else _darts(text)
    for edge in normal + reduction:
        if _only(edge) not in CELL_CANDIDATES[kind]:
            raise ValueError(f"{_only(edge)!r} is no operation of {kind}: it has {', '.join(CELL_CANDIDATES[kind])}")
    spec = CellNetworkSpec(kind, in_channels, classes, channels, cells, normal, reduction, affine)
    spec.check()
    return spec


def is_text(text: str) -> bool:
    """Says whether this looks like a genotype in one of the formats."""
    return text.lstrip().startswith(("|", "Genotype("))


def _nasbench201(text: str) -> tuple[Edge, ...]:
    edges = []
    nodes = text.split("+")
    if len(nodes) != STEPS["nasbench201"]:
        raise ValueError(f"a NAS-Bench-201 architecture has 3 nodes, separated by +, got {len(nodes)}: {text}")
    for target, node in enumerate(nodes, start=INPUTS["nasbench201"]):
        found = re.findall(r"(\w+)~(\d)", node)
        if node != "|" + "".join(f"{name}~{source}|" for name, source in found) or [int(s) for _, s in found] != list(
            range(target)
        ):
            raise ValueError(f"node {target} of a NAS-Bench-201 architecture is |op~0|...|op~{target - 1}|, got {node}")
        edges += [Edge(target, int(source), (name,)) for name, source in found]
    return tuple(edges)


def _darts(text: str) -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "Genotype":
            raise ValueError("is no call of Genotype")
        parts = {keyword.arg: keyword.value for keyword in call.keywords}
        cells = [ast.literal_eval(parts[name]) for name in ("normal", "reduce")]
        concats = [_numbers(parts[name]) for name in ("normal_concat", "reduce_concat")]
    except (SyntaxError, KeyError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"this is no genotype of DARTS ({error}): {text[:80]}") from error
    if any(tuple(concat) != NODES for concat in concats):
        raise ValueError(f"cells concatenate nodes 2 to 5, got {concats[0]} and {concats[1]}")
    normal, reduction = (_darts_edges(cell) for cell in cells)
    return normal, reduction


def _numbers(value: ast.expr) -> Sequence[int]:
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "range":
        bounds = [ast.literal_eval(argument) for argument in value.args]
        return [n for n in NODES if n in range(*bounds)] if bounds == [2, 6] else []
    return list(ast.literal_eval(value))


def _darts_edges(cell: object) -> tuple[Edge, ...]:
    """Returns two edges a node, in order."""
    edges = []
    if not isinstance(cell, list) or len(cell) != 2 * STEPS["darts"]:
        raise ValueError(f"a cell of DARTS has {2 * STEPS['darts']} edges, got {cell!r}")
    for i, pair in enumerate(cell):
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and type(pair[1]) is int):
            raise ValueError(f"an edge of DARTS is ('operation', source), got {pair!r}")
        edges.append(Edge(INPUTS["darts"] + i // 2, pair[1], (pair[0],)))
    return tuple(edges)
