"""What the machine refuses a run ends it with one error that says how to go on."""

import contextlib
import errno
import multiprocessing
import os
import signal
from pathlib import Path
from unittest import mock

import pytest
import torch
from PIL import Image

from asose_fast import retrain, train
from asose_fast.engine.retrainer import Retrainer
from asose_fast.engine.trainer import Trainer
from asose_fast.machine import refused
from asose_fast.space import BlockSpec
from asose_fast.store.checkpoint import CheckpointError, write_atomically
from tests.export.networks import make_derived, make_run
from tests.helpers import OnStep, options


def test_what_is_refused_and_what_is_not():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 46)
    assert refused(caught.value).startswith("memory is exhausted (")
    assert "\n" not in refused(caught.value)
    assert refused(MemoryError()) == "memory is exhausted"
    assert refused(OSError(errno.ENOSPC, "No space left on device")) == "[Errno 28] No space left on device"
    killed = refused(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. \n"))
    assert killed.startswith("a process of --workers has failed (worker (pid 12) is killed by signal: Killed)")
    for fault in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("x"), TypeError("y")):
        assert refused(fault) is None


@contextlib.contextmanager
def interfering(action):
    """Has every trainer that is made call `action` in its third epoch."""

    def act(state):
        if (state.progress.epoch, state.progress.step) == (2, 1):
            action()

    def built(self, *arguments, init=Trainer.__init__):
        init(self, *arguments)
        self.observers.append(OnStep(act))

    with mock.patch.object(Trainer, "__init__", built):
        yield


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[x] DefaultCPUAllocator: can't allocate memory: 8")])
def test_exhausted_memory_ends_a_run_that_can_go_on(tmp_path, capsys, error):
    run = tmp_path / "run"
    with interfering(raising(error)):
        assert train.main([*options(), "--out", str(run)]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    assert "error: memory is exhausted" in said
    assert said.endswith(f"When that is mended: python -m asose_fast.train --resume {run}\n")
    assert train.main(["--resume", str(run)]) == 0


def kill_workers():
    children = multiprocessing.active_children()
    assert children
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
        child.join()


def test_a_killed_worker_ends_a_run_that_can_go_on(tmp_path, capsys):
    for folder in (tmp_path / "images" / part / name for part in ("train", "test") for name in "ab"):
        folder.mkdir(parents=True)
        for number in range(20):
            Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    run = tmp_path / "run"
    data = {
        "dataset": f"imagefolder:{tmp_path / 'images'}",
        "memory_limit_gb": 0,
        "cache_root": None,
        "workers": 1,
        "batch_size": 4,
    }
    with interfering(kill_workers):
        words = options(**data, limit_train="null", limit_test="null")
        assert train.main([*words, "--out", str(run)]) == 2
    said = capsys.readouterr().err
    assert "error: a process of --workers has failed (worker (pid" in said
    assert said.endswith(f"When that is mended: python -m asose_fast.train --resume {run}\n")
    assert train.main(["--resume", str(run)]) == 0


def test_a_retraining_without_memory_says_how_it_goes_on(tmp_path, capsys):
    make_run(tmp_path / "run", make_derived([BlockSpec(("sep_conv_3x3",), 4, 8, 2)], 1, 10), image_size=8)
    command = [
        str(tmp_path / "run"),
        "--out",
        str(tmp_path / "out"),
        "--dataset=digits",
        "--limit_train=40",
        "--batch_size=10",
        "--epochs=1",
    ]
    with mock.patch.object(Retrainer, "_step", side_effect=MemoryError):
        assert retrain.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: memory is exhausted. When that is mended, the same command with --out {tmp_path / 'out'}"
    )
    assert retrain.main(command) == 0


def test_a_fault_of_the_program_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "run", lambda self: {}["x"])
    with pytest.raises(KeyError, match="x"):
        train.main([*options(), "--out", str(tmp_path / "run")])


def test_a_disk_that_has_become_read_only(tmp_path, monkeypatch):
    """Nothing can be removed from it either, not even what was never written."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "file").write_bytes(b"old")
    for name in ("open", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(CheckpointError, match=r"cannot write .*file: Read-only file system; the file that was there"):
        write_atomically(tmp_path / "file", b"new")
