"""Claims on folders and files: one command at a time, nothing stays of a killed one, what counts as empty."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from asose_fast.store.checkpoint import CheckpointError
from asose_fast.store.run_folder import claimed, claimed_file, clear, require_empty
from tests.helpers import ROOT, contents

SMALL = ["--epochs=1", "--batch_size=20", "--threads=1"]


def test_a_folder_is_made_and_taken_away_again_if_it_stays_empty(tmp_path):
    with claimed(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()
    with claimed(tmp_path / "a" / "b") as folder:
        (folder / "file").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]
    (tmp_path / "empty").mkdir()
    with claimed(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()  # it was there before


@pytest.mark.parametrize("new", [False, True])
def test_the_folder_of_the_checkpoints_goes_where_none_was_written(tmp_path, new):
    with claimed(tmp_path / "run", new=new) as folder:
        (folder / "checkpoints").mkdir()
    assert os.listdir(tmp_path) == []
    with claimed(tmp_path / "run", new=new) as folder:
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.pt").touch()
    assert contents(tmp_path / "run")
    (tmp_path / "theirs" / "checkpoints").mkdir(parents=True)
    with claimed(tmp_path / "theirs"):
        pass
    assert (tmp_path / "theirs" / "checkpoints").is_dir()  # it was there before


def test_the_next_free_name(tmp_path):
    (tmp_path / "run-2").write_text("a file")
    with claimed(tmp_path / "run", new=True) as one, claimed(tmp_path / "run", new=True) as two:
        assert (one.name, two.name) == ("run", "run-3")


def test_names_are_taken_once_by_threads(tmp_path):
    found, release = [], threading.Event()

    def take():
        with claimed(tmp_path / "runs" / "run", new=True) as folder:
            found.append(folder)
            release.wait(30)

    threads = [threading.Thread(target=take) for _ in range(20)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and len(found) < 20:
        time.sleep(0.01)
    release.set()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 20


def test_only_one_command_has_a_folder_or_file(tmp_path):
    with claimed(tmp_path / "run") as folder:
        with pytest.raises(BlockingIOError, match=rf"^another command is writing {folder}: wait for its end"):
            claimed(folder).__enter__()
        with (
            claimed(tmp_path / "other"),
            claimed_file(folder / "file"),
            claimed_file(folder / "other"),
            pytest.raises(BlockingIOError, match=r"another command is writing .*/run/file"),
        ):
            claimed_file(folder / "file").__enter__()
        (folder / "kept").touch()
    with claimed(folder):
        assert sorted(os.listdir(folder)) == [".lock", "kept"]
    assert os.listdir(folder) == ["kept"]


def test_a_killed_process_holds_nothing(tmp_path):
    path = f"__import__('pathlib').Path({str(tmp_path)!r})"
    code = f"from asose_fast.store import run_folder\nwith run_folder.claimed({path})"
    process = subprocess.Popen(
        [sys.executable, "-c", code + ":\n print('mine', flush=True)\n import time\n time.sleep(600)"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"mine\n"
    with pytest.raises(BlockingIOError, match="another command is writing"):
        claimed(tmp_path).__enter__()
    process.kill()
    process.communicate()
    assert (tmp_path / ".lock").exists()
    with claimed(tmp_path):
        require_empty(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_forked_worker_that_outlives_its_parent_holds_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    with claimed(tmp_path):
        worker = context.Process(target=time.sleep, args=(600,))
        worker.start()
    try:
        with claimed(tmp_path):
            assert worker.is_alive()
    finally:
        worker.kill()
        worker.join()


@pytest.mark.parametrize("place", ["file", "file/run", "file/run/deeper"])
def test_a_folder_that_cannot_be_made(tmp_path, place):
    (tmp_path / "file").touch()
    for new in (False, True):
        if place == "file" and new:
            continue
        with pytest.raises(CheckpointError, match=f"cannot make {tmp_path}.*: .*Give another folder"):
            claimed(tmp_path / place, new=new).__enter__()
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_in_the_way(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for name in (".config.yaml.4711", "checkpoints/.epoch-0000-step-000000.pt.12"):
        (tmp_path / name).touch()
    require_empty(tmp_path)
    for name in "gfedcba":
        (tmp_path / name).touch()
    with pytest.raises(FileExistsError, match=r"is not empty, it holds a, b, c, d, e and 2 more: give another --out"):
        require_empty(tmp_path)


def test_only_what_commands_write_is_cleared(tmp_path):
    theirs = ["config.yaml", "report.html", "checkpoints/last.pt", "checkpoints/epoch-0001-step-000000.pt"]
    mine = ["notes.txt", "checkpoints/mine.pt", "tensorboard/notes", "retrain-1/model.safetensors", "model.py"]
    for name in (*theirs, *mine):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clear(tmp_path)
    assert sorted(map(str, contents(tmp_path))) == sorted(mine)
