"""`torchrun -m asose_fast.train`: a lost process, a restart, a stop, and another number of processes afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asose_fast.engine.processes import Processes
from asose_fast.store import checkpoint, checkpoint_folder
from asose_fast.terminal import make_console
from asose_fast.train import _run, main
from tests.helpers import ROOT, make_config, options

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")


def torchrun(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def epochs(folder):
    file = folder / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def wait_until(job, reached):
    deadline = time.monotonic() + 1800
    while job.poll() is None and time.monotonic() < deadline:
        if reached():
            return
        time.sleep(0.01)
    job.kill()
    raise AssertionError(job.communicate())


def workers(job):
    return [int(pid) for pid in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]


PLANNING = """
import json, os, sys, time
from asose_fast.engine import rehearsal
from asose_fast.engine.state import SearchState
from asose_fast.train import main

rank = int(os.environ["RANK"])
monotonic = time.monotonic
time.monotonic = lambda: (1 + rank) * monotonic()

def told(plan_again):
    def planning(of, epochs):
        with open(f"{sys.argv[1]}-{rank}", "a") as file:
            print(json.dumps(list(epochs)), file=file)
        plan_again(of, epochs)
    return planning

rehearsal.plan_again = told(rehearsal.plan_again)
SearchState.plan_again = told(SearchState.plan_again)
sys.exit(main(sys.argv[2:]))
"""
"""A search whose processes write each of their plans. The clock of the second one is twice as fast."""


@pytest.mark.long
def test_processes_keep_to_one_time_by_the_same_plans(tmp_path):
    folder, script = tmp_path / "run", tmp_path / "planning.py"
    script.write_text(PLANNING)
    words = [*options(process_timeout=600.0), "--seconds=40", "--out", str(folder)]
    job = torchrun(str(script), str(tmp_path / "plans"), *words)
    said, error = job.communicate(timeout=1800)
    assert job.returncode == 0, error
    first, second = ((tmp_path / f"plans-{rank}").read_text().splitlines() for rank in range(2))
    assert first == second
    assert "planned for 0:40, by a few steps of each kind" in said
    assert epochs(folder) == sum(json.loads(first[-1]))
    assert json.loads((folder / "summary.json").read_text())["processes"] == 2


def test_a_job_outlives_a_killed_process_and_stops_when_told(tmp_path):
    folder = tmp_path / "run"
    command = [
        "-m",
        "asose_fast.train",
        *options(search_epochs=200, process_timeout=3600.0),
        "--out",
        str(folder),
        "--resume_if_there",
    ]
    job = torchrun("--max-restarts=1", *command)
    wait_until(job, lambda: epochs(folder) >= 2)
    first, second = workers(job)
    os.kill(second, signal.SIGKILL)
    wait_until(job, lambda: len(workers(job)) == 2 and not {first, second} & set(workers(job)))
    done = checkpoint.load(folder / "checkpoints" / "last.pt")["progress"]["epoch"]
    wait_until(job, lambda: epochs(folder) >= done + 2)
    job.send_signal(signal.SIGTERM)
    said, error = job.communicate(timeout=1800)
    assert "process 0 of 2 has lost another, which has ended or does not answer" in error
    assert f"The last good checkpoint is kept in {folder / 'checkpoints'}" in error
    assert f"resuming {folder} after" in said
    assert "stopped by SIGTERM in phase search" in said
    assert f"torchrun --nproc_per_node 2 -m asose_fast.train --resume {folder}" in said
    assert said.count("run folder") == 1  # one process speaks
    state = checkpoint.load(folder / "checkpoints" / "last.pt")
    assert [record["epoch"] for record in state["history"]] == list(range(1, state["progress"]["epoch"] + 1))
    assert not (folder / "summary.json").exists()

    # In one process now, and soon at its end.
    newest, state = checkpoint_folder.load_newest(folder / "checkpoints", pytest.fail)
    state["config"]["search_epochs"] = state["progress"]["epoch"] + 1
    checkpoint.save(newest, state)
    (folder / "config.yaml").unlink()  # which would contradict it
    assert main(["--resume", str(folder)]) == 0
    assert json.loads((folder / "summary.json").read_text())["processes"] == 1
    assert epochs(folder) == state["progress"]["epoch"] + 4


def refusal(capsys, *arguments):
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def test_resume_if_there_begins_a_run_and_goes_on_with_it(tmp_path, capsys):
    folder = tmp_path / "run"
    command = [*options(), "--out", str(folder), "--resume-if-there"]
    assert main(command) == 0
    assert "run folder" in capsys.readouterr().out
    model = (folder / "model.safetensors").read_bytes()
    assert main(command) == 0
    assert "resuming" in capsys.readouterr().out
    assert (folder / "model.safetensors").read_bytes() == model
    assert "holds a run of other settings: seed 0 there, 7 here. Give another --out" in refusal(
        capsys, *command, "--seed=7"
    )
    assert "--resume_if_there needs --out FOLDER" in refusal(capsys, "--resume_if_there")


def test_restarts_that_would_begin_anew_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    error = refusal(capsys, *options(), "--out", str(tmp_path / "run"))
    assert "add --out FOLDER --resume_if_there" in error
    assert not (tmp_path / "run").exists()


def test_more_processes_than_images_of_a_batch_are_refused(tmp_path):
    with pytest.raises(ValueError, match="batch_size 20 leaves some of the 21 processes without work"):
        _run(make_config(), tmp_path / "run", None, None, make_console(), Processes(0, 21), 0.0)
    assert not (tmp_path / "run").exists()
