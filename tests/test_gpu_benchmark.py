"""The script for GPUs, run dry: every section leaves rows, and what fails or takes too long is one of them."""

import json
import time

import pytest
import torch

from benchmarks.gpu.__main__ import SECTIONS, main
from benchmarks.gpu.table import Table
from tests.helpers import CPU


@pytest.fixture(autouse=True)
def ordinary_memory():
    """Filling fresh memory with NaN is for kernels, not for what measures them."""
    torch.use_deterministic_algorithms(False)


def run(folder, *sections):
    main(["--device", "cpu", "--out", str(folder / "gpu.json"), "--only", *sections])
    return json.loads((folder / "gpu.json").read_text())


def test_every_section_leaves_rows(tmp_path, capsys):
    found = run(tmp_path, *SECTIONS)
    printed = capsys.readouterr().out
    assert {row["section"] for row in found["rows"]} == {"copy", *SECTIONS}
    assert found["hardware"]["info"]["versions"]["torch"] == torch.__version__
    for row in found["rows"]:
        assert row["name"] in printed
        assert "the rest" not in row["name"], row
        if "seconds" not in row:
            continue
        timed = {name: s for name, s in row["seconds"].items() if isinstance(s, dict)}
        assert "copy" in timed or {"cpu", "eager nhwc", "eager", "ours fp32"} & timed.keys(), row
        assert all(s["median"] > 0 for s in timed.values())
    graphs = [row["value"] for row in found["rows"] if row["section"] == "graphs"]
    assert graphs == 3 * ["failed: RuntimeError: the device is cpu, and graphs are of CUDA"]


def table():
    return Table(CPU, dry=True, rounds=2, compiling=())


def test_a_failure_is_a_row_and_the_rest_goes_on(capsys):
    def breaks():
        raise ValueError("no such kernel\nand more")

    def work(measured):
        measured.compare("ops", {"broken": breaks, "runs": lambda: lambda: sum(range(100))})
        measured.attempt("value", lambda: 3)
        raise RuntimeError("later")

    measured = table()
    measured.run("one", work, 60)
    measured.run("two", lambda t: t.note("still", "here"), 60)
    first, value, rest, still = measured.rows
    assert first["seconds"]["broken"] == "failed: ValueError: no such kernel"
    assert first["seconds"]["runs"]["median"] > 0
    assert (value["value"], rest["value"], still["value"]) == (3, "failed: RuntimeError: later", "here")


def test_what_takes_too_long_is_ended():
    def work(measured):
        measured.compare("slow", {"slow": lambda: lambda: time.sleep(60)})
        measured.note("not", "reached")
        measured.attempt("late", lambda: 1)

    measured, started = table(), time.monotonic()
    measured.run("one", work, 0.5)
    assert time.monotonic() - started < 20
    assert measured.rows[0]["seconds"]["slow"].startswith("failed: OutOfTime")
    assert measured.rows[-1]["value"].startswith("skipped: out of its")
