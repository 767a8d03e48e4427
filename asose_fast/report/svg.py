"""This module makes elements of SVG, escaped, and scales and numbers for their labels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from markupsafe import Markup, escape

NONE, TIMES, MINUS = "\N{EN DASH}", "\N{MULTIPLICATION SIGN}", "\N{MINUS SIGN}"
"""These stand for no value, between the sides of an image, and before a number."""

STYLE = """
svg.figure{display:block;width:100%;height:auto;overflow:visible}
svg.figure text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
svg.figure text{font-size:11px;fill:var(--muted);font-variant-numeric:tabular-nums}
svg.figure text.strong{font-size:12px;fill:var(--ink)}
svg.figure .hair{stroke:var(--rule);stroke-width:1;fill:none}
svg.figure .band{fill:var(--band)}
svg.figure .cells path{fill:none;stroke-width:1;shape-rendering:crispEdges}
svg.figure .faint{fill:none;stroke:var(--muted);stroke-width:.8;stroke-opacity:.75}
svg.figure .line{fill:none;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}
svg.figure .event{fill:var(--muted)}
svg.figure .flow{stroke:var(--muted);stroke-width:1.2;fill:none}
""".strip()


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Returns an element. Children that are no Markup, and all attributes, are escaped. `class_` is class, and a_b is
    a-b."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_printable(_plain(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    content = "".join(child if isinstance(child, Markup) else escape(_printable(str(child))) for child in children)
    return Markup(f"<{name}{given}>{content}</{name}>" if children else f"<{name}{given}/>")


def _plain(value: object) -> str:
    return compact(value) if isinstance(value, float) else str(value)


def _printable(content: str) -> str:
    """Leaves out the characters that XML knows no way to write."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", content)


def compact(value: float) -> str:
    """Words a coordinate, to a tenth of a pixel."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def figure(width: float, height: float, title: str, description: str, children: Iterable[Markup]) -> Markup:
    """Returns a drawing of its own, with the name and the description that a screen reader reads."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", description),
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {compact(width)} {compact(height)}",
        width=width,
        height=height,
        class_="figure",
        role="img",
        aria_label=title,
    )


def text(x: float, y: float, content: str, *, anchor: str | None = None, strong: bool = False) -> Markup:
    """Returns a line of text. `anchor` is start, middle or end."""
    return tag("text", content, x=x, y=y, text_anchor=anchor, class_="strong" if strong else None)


def text_width(content: str) -> float:
    """Estimates how wide a label is, in pixels. Fonts differ."""
    return 6.1 * len(content)


def ticks(lowest: float, highest: float, count: int) -> list[float]:
    """Returns about `count` round numbers from `lowest` to `highest`, multiples of 1, 2 or 5 times a power of ten."""
    span = highest - lowest
    if not span > 0 or not math.isfinite(span):
        return [lowest]
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(lowest / step - 1e-9)
    return [step * i for i in range(first, first + count * 3 + 2) if step * i <= highest + span * 1e-9]


def short(value: float) -> str:
    """Words a number for a label, with three digits, and thousands as k or M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(value: float) -> str:
    """Words 0.123 as 12.3 %."""
    return f"{100 * value:.1f} %"
