"""The colours are CSS variables, for light and dark. Those of a figure in a file are written out.

Lines and families of operations have hues that colour-blind people tell apart (after Okabe and Ito, 2008), and sizes of
kernels differ in lightness. Heat maps rise in lightness alone, from the colour of the page.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable

LEVELS = 16
"""A heat map's colours have so many steps."""

_LIGHT = {
    "paper": "#fdfdfc",
    "ink": "#1b1e22",
    "muted": "#596069",
    "rule": "#dfe2e5",
    "band": "#f2f4f5",
    "good": "#1a6e45",
    "bad": "#b3261e",
}
_DARK = {
    "paper": "#15181b",
    "ink": "#e4e7ea",
    "muted": "#9fa7af",
    "rule": "#343a40",
    "band": "#1d2125",
    "good": "#58c48f",
    "bad": "#ff8f85",
}
_LINES = (
    ("#0b62a4", "#6cb4ee"),
    ("#c2500a", "#f29657"),
    ("#0a7a5c", "#43c39b"),
    ("#a83c78", "#e58fbe"),
    ("#8a6d00", "#dcb93d"),
    ("#3f4650", "#c3cad2"),
)
_OPERATIONS = {
    "none": ("#d0d5da", "#3c4248"),
    "skip_connect": ("#9da5ad", "#737b84"),
    "avg_pool_3x3": ("#f3cf73", "#8a6a14"),
    "max_pool_3x3": ("#c98a0c", "#e8b23a"),
    "sep_conv_3x3": ("#a9cdea", "#2a5f8c"),
    "sep_conv_5x5": ("#4f97cc", "#5a9fd4"),
    "sep_conv_7x7": ("#0b5691", "#b4dbf7"),
    "dil_conv_3x3": ("#e3a5c4", "#873a65"),
    "dil_conv_5x5": ("#a83c78", "#e38fbd"),
    "conv_7x1_1x7": ("#159370", "#35b58d"),
    "nor_conv_1x1": ("#eda27c", "#96451c"),
    "nor_conv_3x3": ("#b84a17", "#ef9a6f"),
    "res_conv_3x3": ("#7d2d08", "#fbd3bd"),
    "mbconv_3x3_e3": ("#c9bfe8", "#5a4c96"),
    "mbconv_3x3_e6": ("#9c8ad0", "#8673c4"),
    "mbconv_5x5_e3": ("#7059b3", "#ab9ae0"),
    "mbconv_5x5_e6": ("#45308a", "#cfc4f2"),
    "mbconv_3x3_e3_se": ("#8fd0c9", "#2c6f68"),
    "mbconv_5x5_e6_se": ("#1f7a70", "#7fd0c6"),
}
_OTHERS = (("#7d74ab", "#a79fd6"), ("#4d7d2c", "#94c46f"), ("#7a5230", "#c59a72"), ("#2f8f9d", "#67c2cf"))
_RAMPS = (("#d9e6f0", "#8fbddb", "#2f7db1", "#0a2f4e"), ("#26394a", "#2f678f", "#6fb1dc", "#e2f2fd"))


def _ramp(anchors: tuple[str, ...]) -> list[str]:
    """Returns `LEVELS` colours along the anchors, straight from each to the next."""
    points = [[int(anchor[i : i + 2], 16) for i in (1, 3, 5)] for anchor in anchors]
    colours = []
    for level in range(LEVELS):
        place = level / (LEVELS - 1) * (len(points) - 1)
        i = min(int(place), len(points) - 2)
        mixed = (round(a + (b - a) * (place - i)) for a, b in zip(points[i], points[i + 1], strict=True))
        colours.append("#" + "".join(f"{value:02x}" for value in mixed))
    return colours


def contrast(one: str, other: str) -> float:
    """Returns the contrast, from 1 to 21, as the Web Content Accessibility Guidelines (2.1) define it. For text 4.5 is
    enough."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _theme(dark: bool) -> dict[str, str]:
    lines = {f"line-{i}": pair[dark] for i, pair in enumerate(_LINES)}
    operations = {f"op-{name}": pair[dark] for name, pair in _OPERATIONS.items()}
    others = {f"op-{i}": pair[dark] for i, pair in enumerate(_OTHERS)}
    page, ramp = _DARK if dark else _LIGHT, _ramp(_RAMPS[dark])
    levels = {f"q{i}": colour for i, colour in enumerate(ramp)}
    texts = {f"t{i}": max(("#000000", "#ffffff"), key=functools.partial(contrast, q)) for i, q in enumerate(ramp)}
    return {**page, **lines, **operations, **others, **levels, **texts}


THEMES = {"light": _theme(False), "dark": _theme(True)}
LINES = len(_LINES)


def variables() -> str:
    """Returns the CSS that sets the variables for the reader's theme. Paper is always light."""
    light, dark = (
        "".join(f"--{name}:{value};" for name, value in theme.items()) for theme in (THEMES["light"], THEMES["dark"])
    )
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def written_out(svg: str, theme: str) -> str:
    """Returns `svg` with the colours of a theme in place of the variables, for programs that know none."""
    return re.sub(r"var\(--([\w-]+)\)", lambda match: THEMES[theme].get(match[1], match[0]), svg)


def operation_colours(names: Iterable[str]) -> dict[str, str]:
    """Returns a colour for each operation, in the order given.

    Those that are not in the spaces of asose_fast take a few of their own, then those of operations that are not there
    either; they share colours only when these are used up.
    """
    names = list(dict.fromkeys(names))
    spare = itertools.cycle([*range(len(_OTHERS)), *(known for known in reversed(_OPERATIONS) if known not in names)])
    return {name: f"var(--op-{name if name in _OPERATIONS else next(spare)})" for name in names}


def in_order(names: Iterable[str]) -> list[str]:
    """Returns each operation once. The known ones stand in the order of the search space, then the others by name."""
    found = set(names)
    return [name for name in _OPERATIONS if name in found] + sorted(found - _OPERATIONS.keys())


def level(value: float, lowest: float, highest: float) -> int:
    """Returns the step of a heat map's colours for a value between two bounds."""
    share = (value - lowest) / (highest - lowest) if highest > lowest else 0.0
    return min(LEVELS - 1, max(0, int(share * LEVELS)))
