"""The script for GPUs, run dry: every section leaves rows, and what fails or takes too long is one of them."""

import json
import re
import time

import pytest
import torch

from benchmarks.gpu.__main__ import SECTIONS, main
from benchmarks.gpu.kernels import OURS
from benchmarks.gpu.rows import Rows
from benchmarks.gpu.table import AGAIN, Table
from tests.helpers import CPU, ROOT


@pytest.fixture(autouse=True)
def ordinary_memory():
    """Filling fresh memory with NaN is for kernels, not for what measures them."""
    torch.use_deterministic_algorithms(False)


def run(folder, *sections):
    main(["--device", "cpu", "--out", str(folder / "gpu.json"), "--seconds", "600", "--only", *sections])
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
    return Table(CPU, dry=True, rounds=2, compiling=(), patience=600)


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

    measured = table()
    measured.rounds = 4
    measured.run("one", lambda t: t.compare("ops", {"tires": lambda: tires, "ours": lambda: lambda: 1}), 60)
    (row,) = measured.rows
    assert row["seconds"]["tires"].startswith("failed: StopIteration")
    assert row["seconds"]["ours"]["rounds"] == 4


def test_what_ended_a_process_is_left_out_and_what_is_measured_stays(tmp_path):
    path, before = tmp_path / "gpu.json", {"section": "one", "name": "there", "value": 3}
    Rows(path, {}, [before], add=False, stage="one").keep()
    Rows(path, {}, [], add=True, stage="one").now("one", "ops", "hangs")
    measured = table()
    measured.keeper = Rows(path, {}, measured.rows, add=True, stage="one")

    def work(measured):
        measured.attempt("there", pytest.fail)
        measured.compare("ops", {"ours": lambda: lambda: 1, "hangs": pytest.fail})

    measured.run("one", work, 600)
    first, second = json.loads(path.read_text())["rows"]
    assert first["value"] == 3
    assert second["seconds"]["ours"]["rounds"] == 2
    assert second["seconds"]["hangs"] == "failed: the process ended in it"


def test_a_failure_after_which_the_gpu_is_lost_ends_the_process(tmp_path, monkeypatch):
    def end(status):
        raise SystemExit(status)

    def breaks():
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand advice")

    monkeypatch.setattr("benchmarks.gpu.table.os._exit", end)
    monkeypatch.setattr(Table, "_usable", lambda _: False)
    measured, path = table(), tmp_path / "gpu.json"
    measured.keeper = Rows(path, {}, measured.rows, add=False, stage="one")
    with pytest.raises(SystemExit, match=str(AGAIN)):
        measured.run("one", lambda t: t.compare("ops", {"bad": breaks, "ours": lambda: lambda: 1}), 600)
    assert Rows(path, {}, [], add=True, stage="one").ended == {
        ("one", "ops", "bad"): "failed: RuntimeError: CUDA error: an illegal memory access was encountered"
    }


def test_nsight_compute_is_asked_for_our_kernels_alone():
    """By its names of functions, which have no namespaces."""
    cuda = "".join(file.read_text() for file in (ROOT / "csrc" / "cuda").glob("*.cu"))
    triton = "".join(file.read_text() for file in (ROOT / "asose_fast" / "ops" / "triton").rglob("*.py"))
    ours = {*re.findall(r"__global__[^;{]*?(\w+_kernel)\(", cuda), *re.findall(r"def (_\w+_kernel)\(", triton)}
    ours.remove("probe_kernel")  # computes nothing
    assert len(ours) > 30
    assert [name for name in ours if not re.search(OURS, name)] == []
    theirs = ("vectorized_elementwise_kernel", "elementwise_kernel", "reduce_kernel", "batch_norm_backward_kernel")
    assert [name for name in theirs if re.search(OURS, name)] == []


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
