"""The tables of the READMEs are those of the committed measurements."""

import json
import subprocess
import sys

import pytest

from benchmarks import record, table
from benchmarks.measure import Duration, Ratio, Size
from benchmarks.record import row_of
from tests.helpers import ROOT

OUTDATED = "before\n<!-- table: operators -->\nold\n<!-- /table -->\nafter\n"


def results(tmp_path, *rows):
    path = tmp_path / "cpu.jsonl"
    path.write_text("".join(f"{json.dumps(row_of(*row))}\n" for row in rows))
    return path


def test_the_readmes_are_up_to_date():
    assert table.main(["--check"]) == 0


def test_a_row_says_what_was_measured():
    assert row_of("a step / eager, (2, 3)", Ratio(2.0, 1.5, 3.0, 9)) == {
        "row": "a step", "form": "eager, (2, 3)", "median": 2.0, "low": 1.5, "high": 3.0, "rounds": 9,
    }  # fmt: skip
    assert row_of("a step", Duration(0.25)) == {"row": "a step", "seconds": 0.25}
    assert row_of("peak", Size(7)) == {"row": "peak", "bytes": 7}
    assert row_of("fraction", "0.5 of 9 GB/s") == {"row": "fraction", "text": "0.5 of 9 GB/s"}


def test_check_finds_an_outdated_table_and_writing_mends_it(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(OUTDATED)
    measured = results(
        tmp_path,
        ("mixed_sum fwd+bwd K=10 (64, 32, 32, 32) nchw / eager", Ratio(3.21, 2.8, 4.7, 25)),
        ("mixed_sum fwd+bwd K=10 (64, 64, 8, 8) nhwc / torch.compile", Ratio(0.84, 0.78, 0.87, 25)),
    )
    arguments = ["--results", str(measured), str(page)]
    assert table.main(["--check", *arguments]) == 1
    assert "tables are not those" in capsys.readouterr().out
    assert page.read_text() == OUTDATED
    assert table.main(arguments) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| `mixed_sum`, K=10, (64, 32, 32, 32) | 3.2x [2.8, 4.7] | not measured | not measured |" in text
    assert "| not measured | not measured | **0.84x** [0.78, 0.87] |" in text
    assert table.main(["--check", *arguments]) == 0


def test_measurements_are_appended_and_the_newest_on_a_processor_counts(tmp_path, monkeypatch):
    row, page, measured = "mixed_sum fwd+bwd K=10 (2, 16, 8, 8) nchw", tmp_path / "page.md", tmp_path / "cpu.jsonl"
    page.write_text("<!-- table: machine -->\n<!-- /table -->\n<!-- table: operators -->\n<!-- /table -->\n")
    for number, (cpu, form) in enumerate([("A", "eager"), ("A", "other"), ("A", "eager"), ("B", "eager")], 2):
        here = record.environment() | {"cpu": cpu, "commit": f"c{number}"}
        monkeypatch.setattr(record, "environment", lambda here=here: here)
        record.append(measured, [row_of(f"{row} / {form}", Ratio(number, number, number, 9))])
    assert [(r["cpu"], r["commit"], r["median"]) for r in record.read(measured)] == [
        *(("A", "c2", 2), ("A", "c3", 3), ("A", "c4", 4), ("B", "c5", 5))
    ]
    for arguments, cpu, commit, ratio in (([], "B", "c5", "5.0x"), (["--cpu", "A"], "A", "c4", "4.0x")):
        assert table.main(["--results", str(measured), *arguments, str(page)]) == 0
        text = page.read_text()
        assert f"cores of {cpu} (" in text
        assert f"fp32, commit {commit}\n" in text
        assert f"| `mixed_sum`, K=10, (2, 16, 8, 8) | {ratio} [" in text


def test_rows_of_several_commits_are_said_to_be(tmp_path, monkeypatch):
    cells = [cell for cell in table.OPERATORS[0].cells if cell]
    environment = record.environment()
    for number, (row, form) in enumerate(cells):
        monkeypatch.setattr(record, "environment", lambda number=number: environment | {"commit": f"c{number}"})
        record.append(tmp_path / "cpu.jsonl", [row_of(f"{row} / {form}", Ratio(2, 1, 3, 9)), row_of("unseen", "x")])
    assert table.machine(table.Results(tmp_path / "cpu.jsonl"), "en")[0].endswith("commit c0, c1, c2")


def test_a_chinese_page(tmp_path):
    page = tmp_path / "page.zh-CN.md"
    page.write_text("<!-- table: memory -->\n<!-- /table -->\n")
    row = "six layers, C=16, batch 64: peak of a soft step"
    measured = results(tmp_path, (f"{row}, eager nhwc", Size(400 * 2**20)), (f"{row}, stacked", Size(100 * 2**20)))
    assert table.main(["--results", str(measured), str(page)]) == 0
    assert "| 存活张量 | 400 MiB | 100 MiB (25%) | 未测量 |" in page.read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- table: gpus -->\n<!-- /table -->\n", "no table 'gpus'"),
        ("<!-- table: steps -->\n", "needs a line"),
        ("<!-- /table -->\n", "needs a line"),
    ],
)
def test_wrong_markers_are_refused(tmp_path, capsys, text, message):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(SystemExit):
        table.main([str(tmp_path / "page.md")])
    assert message in capsys.readouterr().err


def test_what_is_measured_exists():
    command = [sys.executable, "-m", "pytest", "--collect-only", *(a for run in table.MEASURED for a in run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_cell_was_measured():
    if not table.RESULTS.exists():
        pytest.skip("not measured on this checkout: make bench-table")
    found = table.Results(table.RESULTS)
    for name, make in table.TABLES.items():
        assert "not measured" not in "\n".join(make(found, "en")), name
