"""The derived network is drawn as a chain of blocks, or as cells with their edges, from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from asose_fast.report import svg
from asose_fast.report.palette import operation_colours
from asose_fast.space.cells import CellNetworkSpec
from asose_fast.space.cells.spec import INPUTS, Edge
from asose_fast.space.genotype import Genotype
from asose_fast.space.network import NetworkSpec

BOX, GAP = 30.0, 12.0


class _Box(NamedTuple):
    label: str
    detail: str
    colour: str | None
    """The colour is None for what was not searched."""
    skip: bool = False
    """A shortcut leads around the box."""


def network(genotype: dict[str, Any]) -> Callable[[float], Markup] | None:
    """Returns a drawing of the network in `genotype.json`, and None where it is no genotype."""
    try:
        found = Genotype.from_dict(genotype)
    except ValueError:
        return None
    spec = found.network
    return _cells(spec) if isinstance(spec, CellNetworkSpec) else _chain(spec, found.image_size)


def _chain(spec: NetworkSpec, size: int | None) -> Callable[[float], Markup]:
    def shape(channels: int) -> str:
        return f"{channels} channel{'s' * (channels > 1)}" + (f", {size} {svg.TIMES} {size}" if size else "")

    def convolution(pool: bool, kernel: int = 3) -> str:
        return f"convolution {kernel} {svg.TIMES} {kernel}" + ", max pooling" * pool

    colours = operation_colours(block.candidates[0] for block in spec.blocks)
    boxes = [_Box("images", shape(spec.in_channels), None)]
    size = -(-size // (spec.stem_stride * (1 + spec.stem_pool))) if size else size
    strided = f"stride {spec.stem_stride}, " if spec.stem_stride > 1 else ""
    stem = f"stem, {convolution(spec.stem_pool, spec.stem_kernel)}"
    boxes.append(_Box(stem, f"{strided}{shape(spec.stem_channels)}", None))
    for i, block in enumerate(spec.blocks):
        size = -(-size // block.stride) if size else None
        name, dense = block.candidates[0], block.kernel == 3
        detail = [f"stride {block.stride}"] if block.stride != 1 else []
        if block.project and not dense:
            detail.append("projection")
        if block.stride != 1 or (block.project and not dense):
            detail.append(shape(block.in_channels if dense else block.out_channels))
        boxes.append(_Box(f"{i + 1}  {name}", ", ".join(detail), colours[name], skip=True))
        if dense:
            size = -(-size // 2) if size and block.pool else size
            boxes.append(_Box(convolution(block.pool), shape(block.out_channels), None))
    boxes.append(_Box("mean over pixels, linear", f"{spec.classes} classes", None))
    told = ", ".join(f"{box.label} ({box.detail})" if box.detail else box.label for box in boxes)

    def draw(width: float) -> Markup:
        left, wide = 26.0, min(width - 30, 520.0)
        parts: list[Markup] = []
        for i, box in enumerate(boxes):
            y = i * (BOX + GAP)
            if i:
                middle = left + 40
                parts.append(svg.tag("path", d=f"M{middle} {y - GAP}v{GAP - 4}", class_="flow"))
                parts.append(svg.tag("path", d=f"M{middle - 3.5} {y - 5.5}h7l-3.5 5.5z", class_="event"))
            if box.skip:
                start, end = y - GAP / 2 - 1, y + BOX + GAP / 2 - 2
                d = f"M{left + 40} {start}H{left - 10}q-6 0 -6 6V{end - 6}q0 6 6 6H{left + 40}"
                parts.append(svg.tag("path", d=d, class_="hair"))
            parts += _drawn(box, left, y, wide)
        return svg.figure(width, len(boxes) * (BOX + GAP) - GAP + 2, "The derived network", told, parts)

    return draw


def _drawn(box: _Box, x: float, y: float, width: float) -> list[Markup]:
    """Draws a box. Where it is too narrow for both, the detail goes below the label, in the same box."""
    parts = [svg.tag("rect", x=x, y=y + 0.5, width=width, height=BOX, rx=3, fill="var(--paper)", stroke="var(--rule)")]
    if box.colour:
        parts.append(svg.tag("rect", x=x, y=y + 0.5, width=8.0, height=BOX, rx=3, fill=box.colour))
    label, detail = box.label[:40], box.detail[:60]
    if svg.text_width(label) * 1.1 + svg.text_width(detail) + 50 < width or not detail:
        parts.append(svg.text(x + 20, y + 20, label, strong=True))
        parts.append(svg.text(x + width - 12, y + 20, detail, anchor="end"))
    else:
        parts.append(svg.text(x + 20, y + 13.5, label, strong=True))
        parts.append(svg.text(x + 20, y + 26, detail))
    return parts


def _cells(spec: CellNetworkSpec) -> Callable[[float], Markup]:
    parts = [("Normal cell", spec.normal)] + ([("Reduction cell", spec.reduction)] if spec.reduction else [])
    count = f"{spec.cells} cells" + ("" if spec.kind == "darts" else " in each of 3 stages")
    told = "; ".join(
        f"{name}: " + ", ".join(f"{edge.candidates[0]} from {edge.source} to {edge.target}" for edge in edges)
        for name, edges in parts
    )

    def draw(width: float) -> Markup:
        heading = f"{spec.kind}, {count}, {spec.channels} channels at first, {spec.classes} classes"
        y, drawn = 40.0, [svg.text(0, 12, heading, strong=True)]
        for name, edges in parts:
            drawn.append(svg.text(0, y, name, strong=True))
            y = _draw_cell(drawn, edges, INPUTS[spec.kind], y + 12) + 30
        return svg.figure(width, y, "The derived network", told, drawn)

    return draw


def _draw_cell(drawn: list[Markup], edges: Sequence[Edge], inputs: int, y: float) -> float:
    """Draws the nodes below each other, with the edges that lead to each. Arcs on the left come from their sources."""
    left, line = 96.0, 22.0
    last = max(edge.target for edge in edges)
    colours = operation_colours(edge.candidates[0] for edge in edges)
    places: dict[int, float] = {}
    for node in range(last + 1):
        named = f"input {node + 1}" if node < inputs else f"node {node - inputs + 1}"
        places[node] = y + line / 2
        drawn.append(svg.tag("circle", cx=left, cy=y + line / 2, r=4.0, class_="event"))
        drawn.append(svg.text(left + 14, y + line / 2 + 4, named, strong=True))
        y += line
        for edge in edges:
            if edge.target != node:
                continue
            name, start, end = edge.candidates[0], places[edge.source], y + line / 2
            reach = 14.0 + 76.0 * min(1.0, (end - start) / 330)
            d = f"M{left} {start:.1f}C{left - reach:.1f} {start:.1f} {left - reach:.1f} {end:.1f} {left + 10} {end:.1f}"
            drawn.append(svg.tag("path", d=d, class_="flow", stroke_opacity=0.6))
            drawn.append(svg.tag("rect", x=left + 14, y=y + 6, width=10.0, height=10.0, rx=1.5, fill=colours[name]))
            source = f"input {edge.source + 1}" if edge.source < inputs else f"node {edge.source - inputs + 1}"
            drawn.append(svg.text(left + 30, y + line / 2 + 4, f"{name} of {source}"))
            y += line
    return y
