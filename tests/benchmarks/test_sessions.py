"""The sessions on a GPU machine: whatever hangs or breaks, what was measured before and after it is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import time

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


def logs_of(folder):
    """What the archive has, and that nothing else was left."""
    assert {file.name for file in folder.glob("*")} - {"programs"} == {"gpu.json", "logs.tar.gz"}
    with tarfile.open(folder / "logs.tar.gz") as logs:
        files = {member.name.removeprefix("logs/"): logs.extractfile(member) for member in logs if member.isfile()}
        return {name: file.read().decode() for name, file in files.items()}


def session(folder, script, total=30):
    """What a script of stages left."""
    run = bash(STAGES.format(folder=folder, root=ROOT, total=total) + script, PATIENCE="1")
    return json.loads((folder / "gpu.json").read_text()), logs_of(folder), run


def test_stages_that_hang_and_break_cost_themselves_alone(tmp_path):
    found, logs, run = session(
        tmp_path,
        """
        stage hangs 2 sleep 60
        stage deaf 2 bash -c 'trap "" TERM; while true; do sleep 0.1; done'
        stage breaks 10 bash -c 'echo why; exit 3' || echo "noticed $?"
        stage crashes 10 bash -c 'kill -SEGV $$'
        stage killed 10 bash -c 'kill -KILL $$'
        stage missing 10 no_such_program
        stage works 10 echo said
        """,
    )
    assert found["rows"] == [{"name": "kept"}]
    assert [line.partition(" in ")[0].partition(" after ")[0] for line in found["stages"]] == [
        "hangs: ended", "deaf: ended", "breaks: failed with status 3", "crashes: failed with status 139",
        "killed: killed", "missing: failed with status 127", "works: done"
    ]  # fmt: skip
    assert (logs["breaks.log"], logs["works.log"]) == ("why\n", "said\n")
    assert "no_such_program" in logs["missing.log"]
    assert "noticed 3" in run.stdout
    assert run.returncode == 0


def test_no_stage_begins_when_no_time_is_left(tmp_path):
    found, _, _ = session(tmp_path, "stage late 60 echo no\n", total=1)
    assert found["stages"] == ["late: left out, no time is left"]


def test_a_session_that_is_ended_leaves_what_it_has(tmp_path):
    began = time.monotonic()
    found, logs, run = session(
        tmp_path,
        """
        stage beside 500 bash -c 'echo begun; exec sleep 4567' &
        stage first 10 echo said
        (sleep 1; kill -TERM $$) &
        stage hangs 500 bash -c 'echo begun; exec sleep 4567'
        stage late 10 echo no
        """,
        total=600,
    )
    assert time.monotonic() - began < 400
    assert found["stages"][0].startswith("first: done")
    assert found["rows"] == [{"name": "kept"}]
    assert (logs["first.log"], logs["hangs.log"], logs["beside.log"]) == ("said\n", "begun\n", "begun\n")
    assert "late.log" not in logs
    assert not subprocess.run(["pgrep", "-f", "sleep 4567"], capture_output=True).stdout, "nothing runs on"
    assert run.returncode == 143


def test_what_is_packed_is_there_if_the_session_is_killed(tmp_path):
    bash(STAGES.format(folder=tmp_path, root=ROOT, total=30) + "stage first 10 echo said\nkill -KILL $$\n")
    assert logs_of(tmp_path)["first.log"] == "said\n"


def test_a_wheel_of_no_use_costs_itself_alone(tmp_path):
    """pip installs all of its arguments or none."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python3").write_text(
        f"#!/bin/sh\ncase $* in *pip*) for last; do :; done; echo $last; [ ${{last##*/}} != bad.whl ] ;;"
        f' *) exec {sys.executable} "$@" ;; esac\n'
    )
    (programs / "python3").chmod(0o755)
    for name in ("a.whl", "bad.whl", "c.whl"):
        (programs / name).touch()
    path = f"export PATH={programs}:$PATH ASOSE_WHEELS={programs} DEVICE=cpu BUILD=true\n"
    found, logs, _ = session(tmp_path, path + "prepare 10\n")
    assert logs["wheels.log"].split() == [f"{programs}/{name}" for name in ("a.whl", "bad.whl", "c.whl")]
    assert [line.split(" ")[:2] for line in found["stages"]] == [["wheels:", "failed"], ["build:", "done"]]


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
        "PATH": f"{programs}:{os.environ['PATH']}", "DEVICE": "cpu", "BUILD": "false", "SEARCH_SECONDS": "2",
        "RUNS": str(tmp_path / "runs")
    }  # fmt: skip
    run = bash(f"bash {ROOT}/benchmarks/cifar_session.sh imagefolder:nowhere {tmp_path}/out 3", **environment)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"cifar.json", "logs.tar.gz"}
    found = json.loads((tmp_path / "out" / "cifar.json").read_text())
    ends = [line.split(" ")[:2] for line in found["stages"]]
    assert ends[:2] == [["build:", "failed"], ["search:", "ended"]]
    assert ends[2:] == [["derive:", "done" if "mkdir" in derive else "failed"], ["final:", "done"]]
    assert found["search"] == {"summary": None, "last epoch": {"epoch": 1}}
    folder = "derived-3" if "mkdir" in derive else "search-3"
    assert found["final"]["summary"]["of"] == str(tmp_path / "runs" / folder)
    assert "test accuracy 50.00% with 7 parameters" in run.stdout
    assert run.returncode == 0


def test_rows_are_added_and_become_lines(tmp_path):
    path, hardware = tmp_path / "gpu.json", {"gpu": {"name": "some"}, "info": {"versions": {"torch": "2"}}}
    copy = {"section": "ceilings", "name": "copy", "bytes": 6, "seconds": {"copy": {"median": 2.0}}}
    first = Rows(path, hardware, [copy], add=False, stage="one")
    assert first.bandwidth() is None
    first.keep()
    own = []
    second = Rows(path, hardware, own, add=True, stage="two")
    own.append({"section": "steps", "name": "later"})
    second.keep()
    assert second.bandwidth() == 3
    assert second.measured == set()
    found = json.loads(path.read_text())
    assert found["rows"] == [{"stage": "one", **copy}, {"stage": "two", "section": "steps", "name": "later"}]
    line = json.loads(lines(found)[1])
    assert (line["name"], line["gpu"], line["versions"]) == ("later", {"name": "some"}, {"torch": "2"})
    third = Rows(path, hardware, [], add=True, stage="two")
    assert third.measured == {("steps", "later")}


def test_what_a_process_ended_in_is_known_to_later_ones_of_its_stage(tmp_path):
    path = tmp_path / "gpu.json"
    first = Rows(path, {}, [], add=True, stage="one")
    first.now("steps", "fine", "ours")
    first.done()
    first.now("steps", "bad", "ours")
    again = Rows(path, {}, [], add=True, stage="one")
    assert again.ended == {("steps", "bad", "ours"): "failed: the process ended in it"}
    again.now("steps", "worse", "", "failed: a bad address")
    other = Rows(path, {}, [], add=True, stage="two")
    assert other.ended == {}
    assert Rows(path, {}, [], add=True, stage="one").ended == {
        ("steps", "bad", "ours"): "failed: the process ended in it", ("steps", "worse", ""): "failed: a bad address"
    }  # fmt: skip
    assert len(json.loads(path.read_text())["ended"]) == 2
    assert {file.name for file in tmp_path.iterdir()} == {"gpu.json"}
