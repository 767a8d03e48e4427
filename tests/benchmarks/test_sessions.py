"""The sessions on a GPU machine: whatever hangs or breaks, what was measured before and after it is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile

import pytest

from benchmarks.gpu.rows import Rows, lines
from tests.helpers import ROOT

STAGES = """
set -uo pipefail
out={folder} result={folder}/gpu.json total={total}
echo '{{"rows": [{{"name": "kept"}}]}}' >"$result"
source {root}/benchmarks/stages.sh
"""


def bash(script, **environment):
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env={**os.environ, **environment})


def session(folder, script, total=30):
    """What a script of stages left."""
    run = bash(STAGES.format(folder=folder, root=ROOT, total=total) + script, PATIENCE="1")
    with tarfile.open(folder / "logs.tar.gz") as logs:
        names = set(logs.getnames())
    return json.loads((folder / "gpu.json").read_text()), names, run


def test_stages_that_hang_and_break_cost_themselves_alone(tmp_path):
    found, names, run = session(
        tmp_path,
        """
        stage hangs 2 sleep 60
        stage deaf 2 bash -c 'trap "" TERM; while true; do sleep 0.1; done'
        stage breaks 10 bash -c 'echo why; exit 3' || echo "noticed $?"
        stage works 10 echo said
        """,
    )
    assert found["rows"] == [{"name": "kept"}]
    assert [line.partition(" in ")[0].partition(" after ")[0] for line in found["stages"]] == [
        "hangs: ended", "deaf: ended", "breaks: failed with status 3", "works: done"
    ]  # fmt: skip
    assert {"logs/breaks.log", "logs/works.log"} < names
    assert (tmp_path / "logs" / "breaks.log").read_text() == "why\n"
    assert "noticed 3" in run.stdout
    assert run.returncode == 0


def test_no_stage_begins_when_no_time_is_left(tmp_path):
    found, _, _ = session(tmp_path, "stage late 60 echo no\n", total=1)
    assert found["stages"] == ["late: left out, no time is left"]


def test_a_session_that_is_ended_leaves_what_it_has(tmp_path):
    found, names, run = session(tmp_path, "stage first 10 echo said\nkill -TERM $$\nstage second 10 echo no\n")
    assert found["stages"][0].startswith("first: done")
    assert len(found["stages"]) == 1
    assert "logs/first.log" in names
    assert run.returncode == 143


FAKE = """#!/bin/sh
# Plays python3: a search that hangs once it has begun, networks that are derived and trained in no time.
out=; for word in "$@"; do [ "$before" = --out ] && out=$word; before=$word; done
case "$*" in
*asose_fast.train*) mkdir -p "$out"; echo '{{"epoch": 1}}' >"$out/metrics.jsonl"; exec sleep 60 ;;
*asose_fast.derive*) {derive} ;;
*asose_fast.retrain*) mkdir -p "$out"
  echo '{{"operations": ["skip"], "test_accuracy": 0.5, "parameters": 7, "of": "'"$3"'"}}' >"$out/summary.json" ;;
*) exec {python} "$@" ;;
esac
"""


@pytest.mark.parametrize("derive", ["mkdir -p $out", "exit 4"])
def test_a_search_without_an_end_is_cut_and_its_network_trained(tmp_path, derive):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").write_text(FAKE.format(python=sys.executable, derive=derive))
    (programs / "python3").chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}", "DEVICE": "cpu", "BUILD": "false", "SEARCH_SECONDS": "2"
    }  # fmt: skip
    run = bash(f"bash {ROOT}/benchmarks/cifar_session.sh imagefolder:nowhere {tmp_path}/out 3", **environment)
    found = json.loads((tmp_path / "out" / "cifar.json").read_text())
    ends = [line.split(" ")[:2] for line in found["stages"]]
    assert ends[:2] == [["build:", "failed"], ["search:", "ended"]]
    assert ends[2:] == [["derive:", "done" if "mkdir" in derive else "failed"], ["final:", "done"]]
    assert found["search"] == {"summary": None, "last epoch": {"epoch": 1}}
    folder = "derived-3" if "mkdir" in derive else "search-3"
    assert found["final"]["summary"]["of"] == str(tmp_path / "out" / folder)
    assert "test accuracy 50.00% with 7 parameters" in run.stdout
    assert run.returncode == 0


def test_rows_are_added_and_become_lines(tmp_path):
    path, hardware = tmp_path / "gpu.json", {"gpu": {"name": "some"}, "info": {"versions": {"torch": "2"}}}
    copy = {"name": "copy", "bytes": 6, "seconds": {"copy": {"median": 2.0}}}
    first = Rows(path, hardware, [copy], add=False)
    assert first.bandwidth() is None
    first.keep()
    own = []
    second = Rows(path, hardware, own, add=True)
    own.append({"name": "later"})
    second.keep()
    assert second.bandwidth() == 3
    found = json.loads(path.read_text())
    assert found["rows"] == [copy, {"name": "later"}]
    line = json.loads(lines(found)[1])
    assert (line["name"], line["gpu"], line["versions"]) == ("later", {"name": "some"}, {"torch": "2"})
