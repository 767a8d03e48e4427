"""What the pages show of whole, partial, damaged and hostile runs."""

import json
import math
import re

import pytest

from asose_fast.report import figures, page, svg
from asose_fast.report.run import Choice, read
from tests.helpers import make_config
from tests.report.runs import Page, records, write_run

HOSTILE = "</title></style></svg>\"'><script>alert(1)</script>{{ 7 * 7 }}&amp;\x00\ud800"
SUMMARY = {"test_accuracy": 0.875, "valid_accuracy": 0.9, "parameters": 12345, "depth": 4}


@pytest.fixture
def folder(tmp_path):
    config = make_config(growth_epochs=4, optimize_epochs=2, seed=3)
    return write_run(tmp_path / "run", records(config), config, **SUMMARY)


def shown(folder):
    return Page(page.render(read(folder)))


def loads(found):
    """What a browser would ask for elsewhere, or run."""
    names = {"script", "link", "iframe", "object", "embed", "img", "image", "use", "audio", "video", "form", "base"}
    asked = [tag for tag, _ in found.elements if tag in names]
    asked += [f"{tag} {k}" for tag, a in found.elements for k in a if k in ("src", "href", "xlink:href", "action")]
    return asked + [f"{tag} {k}" for tag, a in found.elements for k in a if k.startswith("on")]


def test_a_finished_run(folder):
    found = shown(folder)
    for words in (
        "87.5 % test accuracy of the derived network",
        "Finished. Written",
        "parameters 12,345",
        "batch-size errors 0",
        "Leading operation of each layer",
        "Entropy of each layer",
        "Largest probability of each layer",
        "Accuracy",
        "Loss",
        "Temperature",
        "Throughput",
        "5 grown deeper: block 2 is new, depth 4",
        "architecture entropy 0.5 < 1.8 ✓ holds 1 of 6 2",
        "seed 3 0",
    ):
        assert words in found.text, words
    assert "genotype.json is missing" in found.text
    assert [a["lang"] for a in found.named("html")] == ["en"]


def test_a_page_loads_nothing_and_runs_nothing(folder):
    html = page.render(read(folder))
    assert loads(Page(html)) == []
    assert "@import" not in html
    assert "url(" not in html
    assert set(re.findall(r"https?://[^\"\s]*", html)) == {"http://www.w3.org/2000/svg"}


def test_figures_are_named_and_tables_have_headers(folder):
    found = shown(folder)
    drawings = found.named("svg")
    assert len(drawings) == 2 * len(figures.all_of(read(folder)))
    assert all(a["role"] == "img" and a["aria-label"] for a in drawings)
    tables = [i for i, (tag, _) in enumerate(found.elements) if tag == "table"]
    for start, end in zip(tables, [*tables[1:], len(found.elements)], strict=True):
        assert any(tag == "th" and "scope" in a for tag, a in found.elements[start:end])


def test_names_cannot_get_out_of_their_places(tmp_path):
    config = make_config()
    found = records(config)
    for record in found:
        record["phase"] = HOSTILE + record["phase"]
        record["path"] = [HOSTILE] * 3
        record["health"] = [{"name": HOSTILE, "value": HOSTILE, "bound": HOSTILE, "ok": HOSTILE}]
        record["growth"] = {"kind": HOSTILE, "skipped": {HOSTILE: HOSTILE}}
    found[1]["growth"] = {"kind": "branch", "candidate": HOSTILE, "candidates": HOSTILE}
    folder = write_run(tmp_path / "<b>&run", found, config, **SUMMARY)
    values = {**config.to_dict(), "dataset": HOSTILE.replace("\ud800", ""), HOSTILE[:-1]: HOSTILE[:-1]}
    (folder / "config.yaml").write_text(json.dumps(values))
    (folder / "genotype.json").write_text(json.dumps({"classes": [HOSTILE] * 3, "image_size": HOSTILE}))
    run = read(folder)
    run.choice = Choice([HOSTILE, "b"], [[0.5, 0.5], [math.nan, 1.0]])
    for html in (page.render(run), page.compare([run, run])):
        told = Page(html.encode(errors="replace").decode())
        assert loads(told) == []
        assert "<script" not in html
        assert "alert(1)" in told.text
        assert "{{ 7 * 7 }}" in told.text
        assert [tag for tag, _ in told.elements].count("style") == 1


@pytest.mark.parametrize("epochs", [0, 1, 2, 4])
def test_a_run_that_has_not_ended(tmp_path, epochs):
    config = make_config(growth_epochs=4)
    found = shown(write_run(tmp_path / "run", records(config)[:epochs], config))
    assert f"Not finished: {epochs} of 8 epochs" in found.text
    assert ("no epoch of this run has ended" in found.text) == (epochs == 0)
    assert "genotype.json" not in found.text
    if epochs == 0:
        assert not [a for a in found.named("svg")]


def test_a_cut_off_line_is_named_and_the_others_are_shown(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text(
        "\n".join([lines[0], "[1, 2]", '{"epoch": "2"}', *lines[3:-1], lines[-1][:-30]])
    )
    found = shown(folder)
    assert "metrics.jsonl: 3 of 9 lines are damaged and left out (line 2, 3, 9)" in found.text
    assert "87.5 %" in found.text


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "genotype.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[1]", b"{", b"x: [" * 3000, b"null"])
def test_any_file_may_be_damaged(folder, name, content):
    (folder / name).write_bytes(content)
    run = read(folder)
    assert run.problems
    assert Page(page.render(run)).text


VALUES = [None, "x", -1, 1e300, math.nan, math.inf, True, [], [None, "x", math.nan], {"a": 1}, 10**400]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:9])
def test_any_value_may_be_something_else(folder, value):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for key in found[0]:
        if key != "epoch":
            odd = [{**record, key: value} if i % 2 else record for i, record in enumerate(found)]
            odd[4]["growth"] = {"kind": "deeper", "position": value, "skipped": value}
            (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in odd))
            Page(page.render(read(folder)))
    values = {name: value for name in make_config().to_dict()}
    (folder / "config.yaml").write_text(json.dumps(values))
    (folder / "summary.json").write_text(json.dumps({name: value for name in SUMMARY}))
    (folder / "genotype.json").write_text(json.dumps({"classes": value, "image_size": value, "network": value}))
    Page(page.render(read(folder)))


def test_the_last_of_two_records_of_an_epoch_counts(folder):
    lines = (folder / "metrics.jsonl").read_text()
    again = {**json.loads(lines.splitlines()[2]), "valid_accuracy": 0.123}
    (folder / "metrics.jsonl").write_text(lines + json.dumps(again))
    run = read(folder)
    assert [e.epoch for e in run.epochs] == list(range(1, 10))
    assert run.epochs[2].number("valid_accuracy") == 0.123


def test_runs_without_phases_such_as_a_training_from_scratch(tmp_path):
    found = [{"epoch": e, "train_loss": 1.0, "train_accuracy": 0.5, "seconds": 1.0} for e in range(1, 6)]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in found))
    text = shown(folder).text
    assert "config.yaml is missing" in text
    assert "training 5 5.0 s" in text
    assert "Entropy" not in text


def test_long_runs_of_many_layers_make_small_pages(tmp_path):
    config = make_config(warmup_epochs=100, search_epochs=1000, growth_epochs=400, optimize_epochs=500)
    html = page.render(read(write_run(tmp_path / "run", records(config, layers=28), config)))
    assert len(html) < 2_000_000
    assert "Every 8 epochs" in html


def test_the_comparison_of_two_runs(tmp_path):
    one, two = make_config(growth_epochs=4), make_config(growth_epochs=4, seed=7, learning_rate=0.5)
    first = write_run(tmp_path / "a" / "run", records(one), one, **SUMMARY)
    second = write_run(tmp_path / "b" / "run", records(two)[:4], two)
    found = Page(page.compare([read(first), read(second)]))
    assert loads(found) == []
    for words in (
        "Comparison of 2 runs",
        "run (1) run (2) state finished not finished",
        f"test accuracy 87.5 % {svg.NONE}",
        "epochs 8 4 of 8",
        "learning_rate 0.025 0.5",
        "seed 0 7",
        "Validation accuracy",
        "Mean entropy",
    ):
        assert words in found.text, words
    assert "alpha_every" not in found.text
    (chart, *_) = [f for f in figures.compared([("x", read(first)), ("y", read(second))]) if f.name == "train_loss"]
    drawn = str(chart.draw(860.0))
    lengths = [len(re.findall(r"[ML]", d)) for d in re.findall(r'<path d="([^"]+)" class="line"', drawn)]
    assert sorted(lengths) == [1, 1, 4, 8]


def test_trend_compares_the_last_five_epochs_with_the_first_five(folder):
    epochs = [e for e in read(folder).epochs for _ in (0, 1)]
    for e, rate in zip(epochs, [100] * 10 + [80] * 8, strict=True):
        object.__setattr__(e, "numbers", {"images_per_second": rate})
    assert page.trend(epochs[:9]) == svg.NONE
    assert page.trend(epochs) == f"{svg.MINUS}20 %"
