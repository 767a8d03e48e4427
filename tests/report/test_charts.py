"""Scales, curves, maps and colours."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from asose_fast.engine.phases import Phase
from asose_fast.report import charts, palette, svg
from asose_fast.report.charts import Line, Time

TIME = Time(range(1, 5), 8, [Phase("warmup", 0, 2), Phase("search", 2, 6)], [(2, "grown <deeper>")])


def drawn(draw, width=860.0):
    return ElementTree.fromstring(draw(width))


def texts(figure):
    return [element.text for element in figure.iter("{http://www.w3.org/2000/svg}text")]


def paths(figure, **attributes):
    return [
        e.get("d")
        for e in figure.iter("{http://www.w3.org/2000/svg}path")
        if all(e.get(k.rstrip("_")) == v for k, v in attributes.items())
    ]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [((0, 1), [0, 0.5, 1]), ((0, 100), [0, 50, 100]), ((3, 3), [3]), ((0.2, 0.8), [0.2, 0.4, 0.6, 0.8])],
)
def test_ticks_are_round_and_within_the_scale(ends, expected):
    assert svg.ticks(*ends, 3) == pytest.approx(expected)


@pytest.mark.parametrize("ends", [(-1e12, 1e12), (0, 1e-9), (1e12, 1e12 + 1), (-3, -1)])
def test_ticks_of_odd_scales_are_few(ends):
    found = svg.ticks(*ends, 4)
    assert 1 <= len(found) <= 15
    assert all(ends[0] - 1e-9 <= tick <= ends[1] * (1 + 1e-9) + 1e-9 for tick in found)


def line_chart(*lines, **options):
    return charts.line_chart(TIME, lines, title="t", description="d", **options)


def test_a_curve_runs_over_the_centres_of_its_epochs():
    (d,) = paths(drawn(line_chart(Line("a", [0.0, 1.0, 0.5, 0.0]), bounds=(0, 1), height=100)), stroke="var(--line-0)")[
        :1
    ]
    points = [tuple(map(float, p)) for p in re.findall(r"([\d.]+) ([\d.]+)", d)]
    assert [x for x, _ in points] == pytest.approx([TIME.x(e - 0.5, 860) for e in range(1, 5)], abs=0.1)
    top, bottom = points[1][1], points[0][1]
    assert bottom - top == pytest.approx(100, abs=0.1)
    assert points[2][1] == pytest.approx((top + bottom) / 2, abs=0.1)


def test_what_is_no_number_leaves_a_gap_and_a_lone_value_is_a_dot():
    d = paths(drawn(line_chart(Line("a", [1.0, math.nan, 2.0, 3.0]))), stroke="var(--line-0)")[0]
    assert [d.count(letter) for letter in "MLh"] == [2, 1, 1]
    assert "nan" not in d


@pytest.mark.parametrize("values", [[0.0] * 4, [5.0] * 4, [-1e12, 1e12, 0, 0], [math.nan] * 4])
@pytest.mark.parametrize("width", [860.0, 360.0])
def test_every_curve_can_be_drawn_and_no_coordinate_is_infinite(values, width):
    assert not re.search(r"\b(nan|inf)\b", str(line_chart(Line("a", values))(width)))


def test_many_epochs_make_no_larger_figure_and_keep_the_extremes():
    count = 50_000
    time = Time(range(1, count + 1), count)
    values = [0.5] * count
    values[31_234] = 1.0
    draw = charts.line_chart(time, [Line("a", values)], title="t", description="", bounds=(0, 1), height=100)
    assert len(draw(860)) < 30_000
    highest = min(float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", paths(drawn(draw), stroke="var(--line-0)")[0]))
    assert highest == pytest.approx(36.0, abs=1)
    rows = [[float(i % 7) for i in range(count)] for _ in range(3)]
    assert len(charts.heat_map(time, rows, title="t", description="", bounds=(0, 7))(860)) < 60_000
    assert len(charts.share_chart(time, [["none", "a"]] * count, title="t", description="")(860)) < 60_000


def test_a_map_paints_runs_of_one_colour_and_leaves_empty_what_is_not_there():
    rows = [[0.0, 0.0, 1.0, 1.0], [None, math.nan, 0.0, 1.0]]
    figure = drawn(charts.heat_map(TIME, rows, title="t", description="d", bounds=(0, 1)))
    assert paths(figure, stroke="var(--q0)") == ["M0 0.5h2M2 1.5h1"]
    assert paths(figure, stroke=f"var(--q{palette.LEVELS - 1})") == ["M2 0.5h2M3 1.5h1"]
    gap = Time([1, 2, 4, 5], 8)
    figure = drawn(charts.heat_map(gap, [[0.0] * 4], title="t", description="d", bounds=(0, 1)))
    assert paths(figure, stroke="var(--q0)") == ["M0 0.5h2M3 0.5h2"]


def test_shares_fill_the_height():
    figure = drawn(charts.share_chart(TIME, [["none", "none", "a", "b"]] * 4, title="t", description="d", height=100))
    shares = {}
    for d, fill in ((e.get("d"), e.get("fill")) for e in figure.iter("{http://www.w3.org/2000/svg}path")):
        if fill:
            _, high, low = map(float, re.match(r"M([\d.]+) ([\d.]+)H[\d.]+V([\d.]+)", d).groups())
            shares[fill] = low - high
    assert shares == {"var(--op-none)": 50, "var(--op-0)": 25, "var(--op-1)": 25}


def test_phases_and_events_are_named():
    figure = drawn(line_chart(Line("a", [1.0] * 4)))
    assert {"warmup", "search", "a 1"} <= set(texts(figure))
    titles = [e.text for e in figure.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["t", "after epoch 2: grown <deeper>"]


def test_text_can_be_read_in_both_themes():
    for theme in palette.THEMES.values():
        for name in ("ink", "muted", "good", "bad"):
            assert palette.contrast(theme[name], theme["paper"]) >= 4.5
        for i in range(palette.LEVELS):
            assert palette.contrast(theme[f"t{i}"], theme[f"q{i}"]) >= 4.5
        for i in range(palette.LINES):
            assert palette.contrast(theme[f"line-{i}"], theme["paper"]) >= 4.5
    assert palette.THEMES["light"].keys() == palette.THEMES["dark"].keys()


def test_operations_of_ones_own_share_no_colour_while_there_are_others():
    names = ["mine", "sep_conv_3x3", "mine", *map(str, range(13))]
    colours = palette.operation_colours(names)
    assert list(colours) == ["mine", "sep_conv_3x3", *map(str, range(13))]
    assert len(set(colours.values())) == len(colours)
    assert {colour[len("var(--") : -1] for colour in colours.values()} <= palette.THEMES["light"].keys()
    assert len(set(palette.operation_colours(map(str, range(99))).values())) == 23


def test_a_heat_map_rises_in_lightness_alone():
    for name, towards in (("light", 1), ("dark", -1)):
        theme = palette.THEMES[name]
        away = [palette.contrast(theme[f"q{i}"], theme["paper"]) for i in range(palette.LEVELS)]
        assert away == sorted(away), towards


def test_written_out_colours_leave_no_variable():
    plain = palette.written_out(str(line_chart(Line("var(--x)", [1.0] * 4))(860)), "light")
    assert re.findall(r"var\(--[\w-]+\)", plain) == ["var(--x)"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (59, "59 s"), (180, "3 min"), (9000, "2 h 30 min"), (math.nan, "unknown")],
)
def test_durations(seconds, said):
    assert charts.duration(seconds) == said
