"""The section of the test images: a confusion matrix, figures of the classes and the worst mistakes."""

import dataclasses
import re

import pytest
import torch

from asose_fast.engine.tested.picture import picture
from asose_fast.engine.tested.record import FILE, Mistake, OfClass, Tested
from asose_fast.report import confusion, figures, page, tested
from asose_fast.report.run import read
from tests.helpers import make_config
from tests.report.runs import Page, records, write_run
from tests.report.test_page import HOSTILE, SUMMARY, loads

PICTURE = picture(torch.arange(64, dtype=torch.uint8).reshape(8, 8, 1) * 4)


def recorded(names, images=20, wrong=3):
    """Each class is taken `wrong` times for the next one, and the last one three times as often."""
    count = len(names)
    pairs = [
        (k, other, number)
        for k in range(count)
        for other, number in sorted(
            [(k, images - wrong * (1 + 2 * (k == count - 1))), ((k + 1) % count, wrong * (1 + 2 * (k == count - 1)))]
        )
    ]
    mistakes = [Mistake(f"test/{names[0]}/{i}.png", 0, 1, 0.96, 3.5 - i, PICTURE) for i in range(2)]
    return Tested(tuple(names), tuple(pairs), tuple(mistakes))


def shown(tmp_path, record, **summary):
    config = make_config()
    folder = write_run(tmp_path / "run", records(config), config, **{**SUMMARY, **summary})
    if record:
        record.save(folder)
    return read(folder)


def test_few_classes_are_shown_with_counts(tmp_path):
    run = shown(tmp_path, recorded(["cat", "dog", "cow"]))
    html = page.render(run)
    found = Page(html)
    for words in (
        "Confusion matrix",
        "cat taken for dog: 3 of 20",
        "cow recognised: 11 of 20",
        "cow 20 55.0 % [34.2, 74.2] 78.6 % 64.7 % cat (9)",
        "The worst mistakes",
        "cat taken for dog, 96 % test/cat/0.png",
    ):
        assert words in found.text, words
    assert found.text.index("cow 20 55.0 %") < found.text.index("cat 20 85.0 %")
    assert "The most frequent confusions" not in found.text
    assert [a["src"] for a in found.named("img")] == [PICTURE, PICTURE]
    assert [a["alt"] for a in found.named("img")] == ["cat, taken for dog"] * 2
    assert "confusion" in [figure.name for figure in figures.all_of(run)]
    assert len(found.named("svg")) == 2 * len(figures.all_of(run))


@pytest.mark.parametrize("count", [2, 40, 100, 101, 1000])
def test_a_page_stays_small_and_says_what_it_leaves_out(tmp_path, count):
    run = shown(tmp_path, recorded([f"class number {k}" for k in range(count)]))
    without = page.render(dataclasses.replace(run, tested=None))
    html = page.render(run)
    found = Page(html)
    assert len(html) - len(without) < 200_000
    assert ("Confusion matrix" in found.text) == (count <= confusion.MOST)
    assert ("The most frequent confusions" in found.text) == (count > 10)
    assert ("The other classes" in found.text) == (count > tested.OPEN)
    assert ("up to 250 of 1000; summary.json has them all" in found.text) == (count == 1000)
    assert f"class number {count - 1} 20 55.0 %" in found.text
    if count <= 100:
        (figure,) = tested.figures(run.tested)
        for width in (figures.WIDE, figures.NARROW):
            drawn = str(figure.draw(width))
            cells = len(re.findall(r"M\d+ \d+\.5h1", drawn)) or drawn.count("<rect")
            assert cells == 2 * count
            names = re.findall(r'text-anchor="end">(class.*?)<', drawn)
            assert min(count, 5) <= len(set(names)) == len(names) <= count


def test_a_matrix_fits_its_width():
    """However long the names are, they leave the cells room."""
    names = [f"a very long class name that goes on {k}" for k in range(30)]
    draw = confusion.draw(names, [(29, 29, 5)], title="t", description="d")
    for width in (figures.WIDE, figures.NARROW):
        ((left, side),) = re.findall(r'd="M([\d.]+) [\d.]+h([\d.]+)v', str(draw(width)))
        assert float(left) + float(side) < width
        assert float(side) > width / 3


def test_nothing_is_shown_where_nothing_was_recorded(tmp_path):
    run = shown(tmp_path, None)
    assert run.problems == ["genotype.json is missing"]
    assert "Test images" not in Page(page.render(run)).text


def test_a_run_that_goes_on_does_not_show_what_it_recorded_before(tmp_path):
    run = shown(tmp_path, recorded(["a", "b"]))
    (tmp_path / "run" / "summary.json").unlink()
    assert read(tmp_path / "run").tested is None
    assert run.tested


def test_a_damaged_record_is_named(tmp_path):
    shown(tmp_path, recorded(["a", "b"]))
    (tmp_path / "run" / FILE).write_text('{"classes": ["a"], "confusion": [[0, 1, 5]], "mistakes": []}')
    found = Page(page.render(read(tmp_path / "run")))
    assert f"{FILE} is damaged: there is no class 1 of 1" in found.text
    assert "Confusion matrix" not in found.text


def test_names_cannot_get_out_of_their_places(tmp_path):
    name = HOSTILE.replace("\ud800", "")
    record = Tested((name, "b"), ((0, 1, 5), (1, 1, 2)), (Mistake(name, 0, 1, 0.5, None, PICTURE),))
    html = page.render(shown(tmp_path, record))
    told = Page(html)
    assert set(loads(told)) == {"img", "img src"}
    assert all(a["src"] == PICTURE for a in told.named("img"))
    assert "<script" not in html
    assert "alert(1)" in told.text
    assert [tag for tag, _ in told.elements].count("style") == 1


def test_all_right_is_shown_without_mistakes(tmp_path):
    found = Page(page.render(shown(tmp_path, Tested(("a", "b"), ((0, 0, 5), (1, 1, 2)), ()))))
    assert "The worst mistakes" not in found.text
    assert "Every test image is recognised." in found.text
    assert OfClass("a", 5, 5, 5, None).accuracy == 1


def test_a_training_from_scratch_shows_its_test_images(tmp_path):
    found = Page(page.render(shown(tmp_path, recorded(["a", "b"]), settings={"keep_validation": False})))
    assert "Training from scratch" in found.text
    assert "Confusion matrix" in found.text
