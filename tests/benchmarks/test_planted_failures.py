"""A whole session on a GPU machine with failures planted in it: everything else comes back."""

import json
import os
import subprocess
import sys
import tarfile

import pytest

from tests.helpers import ROOT

PYTHON3 = """#!/bin/sh
case "$*" in
"-m benchmarks.gpu "*) shift 2; exec {python} -m tests.benchmarks.planted_failures "$@" ;;
"-m pytest "*) echo "3 passed" ;;
"-m asose_fast.info") exit 0 ;;
*) exec {python} "$@" ;;
esac
"""


@pytest.mark.long
def test_a_session_leaves_every_row_that_no_failure_was_planted_in(tmp_path):
    (tmp_path / "python3").write_text(PYTHON3.format(python=sys.executable))
    (tmp_path / "python3").chmod(0o755)
    out = tmp_path / "out"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "DEVICE": "cpu", "BUILD": "false"}
    command = ["bash", str(ROOT / "benchmarks" / "gpu_session.sh"), str(out)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert {file.name for file in out.iterdir()} == {"gpu.json", "logs.tar.gz"}, run.stdout + run.stderr
    found = json.loads((out / "gpu.json").read_text())

    sections = ("steps", "graphs", "launches", "waits", "mixing", "convolving", "sampling", "kernels", "memory")
    rows = {(row["stage"], row["section"], row["name"]): row for row in found["rows"]}
    assert len(rows) == len(found["rows"]), "no row is there twice"
    for section in (*sections, "counters", "sanitizer", "first"):
        own = [row for (stage, where, _), row in rows.items() if where == section and stage != "compiled"]
        cells = {row["name"]: row.get("seconds") for row in own}
        assert cells.keys() == {"compared", "after"}, section
        assert {"ours", "eager"} == {name for name, cell in cells["compared"].items() if isinstance(cell, dict)}
    assert rows["compiled", "steps", "compared"]["seconds"].keys() == {"ours"}
    why = {(s, v): cell for (_, s, _), row in rows.items() for v, cell in row.get("seconds", {}).items()}
    ended = "failed: the process ended in it"
    for cell in (("steps", "crashes"), ("mixing", "deaf"), ("kernels", "exits"), ("graphs", "killed")):
        assert why[cell] == ended
    assert why["steps", "fails"] == "failed: ValueError: no such kernel"
    assert why["launches", "compile for ever"] == "failed: OutOfTime: longer than 1 s"

    assert [line for line in found["stages"] if line.startswith("build")] == ["build: failed with status 1 after 0 s"]
    ends = {line.partition(" after ")[0] for line in found["stages"] if " after " in line}
    ended = {"steps: failed with status 139", "operators: failed with status 1", "kernels: failed with status 3"}
    assert {*ended, "graphs: killed"} < ends
    assert run.returncode == 1, "the build is red"
    with tarfile.open(out / "logs.tar.gz") as logs:
        log = logs.extractfile("logs/operators.log").read().decode()
    assert "in deaf" in log, "the traceback of what hangs is in the log"
