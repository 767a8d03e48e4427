"""Intervals of test accuracies, what was measured in words, the bracket of the finals, and what to do next."""

import json

import pytest

from asose_fast.engine.metric import Metric
from asose_fast.report import intervals, page, results, svg
from asose_fast.report.finals import bracket
from asose_fast.report.run import read
from asose_fast.store import retrained
from tests.helpers import make_config
from tests.report.runs import Page, records, write_run

IMAGES = {"train": 600, "valid": 200, "test": 400}


@pytest.mark.parametrize(
    ("right", "count", "low", "high"), [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_wilsons_interval(right, count, low, high):
    assert intervals.of_share(right / count, count) == pytest.approx((low, high), abs=5e-5)


def test_newcombes_interval():
    """The first example of his paper: 56 of 70 and 48 of 80."""
    assert intervals.of_difference(56 / 70, 70, 48 / 80, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    low, high = intervals.of_difference(0.5, 400, 0.5, 400)
    assert low == pytest.approx(-high)


def test_a_difference_of_two_runs_has_an_interval(tmp_path):
    folders = [
        write_run(tmp_path / name, records(make_config()), make_config(), test_accuracy=share, images=count)
        for name, share, count in (("a", 0.798, IMAGES), ("b", 0.802, IMAGES), ("c", 0.9, IMAGES), ("old", 0.9, None))
    ]
    runs = [read(folder) for folder in folders]
    text = Page(page.compare(runs)).text
    assert (
        f"test accuracy 79.8 % [75.6, 83.4] 80.2 % [76.0, 83.8] 90.0 % [86.7, 92.6] 90.0 % beside a {svg.NONE}" in text
    )
    differences = results.differences(runs)
    assert differences[1] == f"+0.4 points [{svg.MINUS}5.1, +5.9]"
    assert differences[2] == "+10.2 points [+5.3, +15.1]"
    assert differences[3] == svg.NONE
    assert "Where 0 is inside, a difference is not shown." in text


def test_the_head_of_a_report_has_interval_images_and_flops(tmp_path):
    latency = {
        "device": "cpu",
        "threads": 2,
        "batch": 1,
        "milliseconds": 1.25,
        "median": 1.5,
        "high": 2,
        "predicted": 1.2,
    }
    summary = {"test_accuracy": 0.798, "images": IMAGES, "flops": 1234567, "latency": latency}
    text = Page(page.render(read(write_run(tmp_path / "run", records(make_config()), make_config(), **summary)))).text
    assert "79.8 % [75.6, 83.4] test accuracy" in text
    assert "images 600 training, 200 validation, 400 test" in text
    assert "FLOPs an image 1,234,567" in text
    assert "latency, 1 image, cpu, 2 threads 1.25 ms (median 1.5 ms, predicted 1.2 ms)" in text


def rung(epoch, steps, *finalists):
    described = [
        {"operations": [name] * 2, "parameters": 1000, "loss": loss, "stays": stays} for name, loss, stays in finalists
    ]
    return {"epoch": epoch, "steps": steps, "finalists": described}


def test_finals_are_a_bracket_with_the_winner_first(tmp_path):
    config = make_config(finals_epochs=2)
    found = records(config)
    found[4]["finals"] = [rung(5, 6, ("b", 0.5, True), ("a", 0.6, True), ("c", 0.7, False), ("d", None, False))]
    found[5]["finals"] = [rung(6, 12, ("a", 0.25, True), ("b", 0.375, False)), "damaged", {"finalists": 3}]
    run = read(write_run(tmp_path / "run", found, config))
    drawn = bracket(run)
    assert drawn.rungs == ["after 6 steps each", "after 12 steps each"]
    assert [(row.operations, row.cells) for row in drawn.rows] == [
        ("a, a", ["0.600 ✓", "0.250 ✓"]),
        ("b, b", ["0.500 ✓", "0.375"]),
        ("c, c", ["0.700", svg.NONE]),
        ("d, d", ["not finite", svg.NONE]),
    ]
    assert "Finals Mean training loss" in Page(page.render(run)).text
    del found[4]["finals"], found[5]["finals"]
    assert bracket(read(write_run(tmp_path / "none", found, config))) is None


def test_a_last_phase_that_was_made_longer_is_an_event(tmp_path):
    found = records(make_config())
    found[2]["lengthened"] = {"from": 1, "to": 3}
    text = Page(page.render(read(write_run(tmp_path / "run", found, make_config())))).text
    assert "3 the last phase was made longer, from 1 to 3 epochs" in text


@pytest.mark.parametrize(("kind", "name", "shown"), [("loss", "mse_loss", "0.25"), ("score", "r2", f"{svg.MINUS}0.25")])
def test_what_is_no_accuracy_has_its_own_name_sign_and_scale(tmp_path, kind, name, shown):
    metric = Metric(kind, name, "mse_loss")
    found = [
        {**record, **metric.said, "train_accuracy": -0.5, "valid_accuracy": -0.25} for record in records(make_config())
    ]
    folder = write_run(tmp_path / "run", found, make_config(), test_accuracy=-0.25, valid_accuracy=-0.25, **metric.said)
    run = read(folder)
    run.place = ""
    text = Page(page.render(run)).text
    assert f"{shown} test {name} of the derived network, {metric.direction}" in text
    assert f"validation {name} {shown}" in text
    assert "accuracy" not in text.replace("search accuracy", "")
    assert "Cross entropy" not in text
    assert "%" not in text.replace("100 %", "").replace("50 %", "").replace("0 %", "")  # of shares of the layers
    other = read(write_run(tmp_path / "other", records(make_config()), make_config(), test_accuracy=0.5))
    text = Page(page.compare([run, other])).text
    assert f"test {name} {shown} accuracy 50.0 %" in text
    assert f"Validation {name}" in text
    assert "Validation accuracy" in text


TRAINED = {
    "settings": {"keep_validation": False, "epochs": 30},
    "test_accuracy": 0.9,
    "parameters": 5000,
    "seconds": 90.0,
}


def test_trainings_from_scratch_are_shown_wherever_they_lie(tmp_path):
    run = write_run(tmp_path / "run", records(make_config()), make_config(), test_accuracy=0.8)
    for out in (run / "inside", tmp_path / "outside", tmp_path / "gone"):
        out.mkdir()
        (out / "summary.json").write_text(json.dumps({**TRAINED, "images": IMAGES}))
        retrained.remember(run, out)
        retrained.remember(run, out)
    (tmp_path / "gone" / "summary.json").unlink()
    assert retrained.known(run) == [run / "inside", tmp_path / "outside", tmp_path / "gone"]
    text = Page(page.render(read(run))).text
    for name in ("inside", str(tmp_path / "outside")):
        assert f"{name} 30 90.0 % [86.7, 92.6] 5,000 90 s" in text
    assert str(tmp_path / "gone") not in text
    (run / "retrained.json").write_text("{")
    assert "Trained from scratch" not in Page(page.render(read(run))).text


def test_a_report_ends_with_the_next_commands(tmp_path):
    finished = write_run(tmp_path / "my run", records(make_config()), make_config(), test_accuracy=0.8)
    text = Page(page.render(read(finished))).text
    for command in ("export", "retrain", "derive", "report"):
        assert f"{command} '{finished}'" in text
    going = read(write_run(tmp_path / "stopped", records(make_config())[:2], make_config()))
    assert f"train --resume {tmp_path / 'stopped'}" in Page(page.render(going)).text
    going.state = "running"
    assert "Next" not in Page(page.render(going)).text
    mine = read(write_run(tmp_path / "mine", records(make_config()), make_config(), choices={"0": "a"}))
    assert f"asose_fast.load('{tmp_path / 'mine'}', model)" in Page(page.render(mine)).text
