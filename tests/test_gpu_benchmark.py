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
    assert {row["section"] for row in found["rows"]} == {"ceilings", *SECTIONS}
    assert found["hardware"]["info"]["versions"]["torch"] == torch.__version__
    for row in found["rows"]:
        assert row["name"] in printed
        assert "the rest" not in row["name"], row
        if "seconds" not in row:
            continue
        timed = {name: s for name, s in row["seconds"].items() if isinstance(s, dict)}
        assert {"copy", "product", "cpu", "eager nhwc", "eager", "ours fp32"} & timed.keys(), row
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


def test_a_variant_without_time_costs_its_own_cell():
    measured = table()
    slow = {"ours": lambda: lambda: sum(range(1000)), "compile": lambda: time.sleep(60), "late": lambda: lambda: None}
    measured.run("one", lambda t: t.compare("ops", slow), 0.5)
    (row,) = measured.rows
    assert row["seconds"]["ours"]["median"] > 0
    assert row["seconds"]["compile"].startswith("failed: OutOfTime")
    assert row["seconds"]["late"] == "skipped: no time is left"


def test_a_variant_that_fails_when_it_is_timed_costs_its_own_cell():
    calls = iter(range(3))

    def tires():
        next(calls)

    measured = Table(CPU, dry=True, rounds=4, compiling=())
    measured.run("one", lambda t: t.compare("ops", {"tires": lambda: tires, "ours": lambda: lambda: 1}), 60)
    (row,) = measured.rows
    assert row["seconds"]["tires"].startswith("failed: StopIteration")
    assert row["seconds"]["ours"]["rounds"] == 4


def test_variants_can_be_chosen():
    measured = table()
    measured.only = ("ours", "compile")
    variants = {name: lambda: lambda: 1 for name in ("ours fp32", "eager", "compile default")}
    measured.run("one", lambda t: t.compare("ops", variants), 60)
    assert measured.rows[0]["seconds"].keys() == {"ours fp32", "compile default"}


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
