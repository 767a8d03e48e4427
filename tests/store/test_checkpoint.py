"""Checkpoints: whole or not at all, and refused with a reason."""

import errno
import io
import os

import pytest
import torch

from asose_fast.store import checkpoint
from asose_fast.store.checkpoint import CheckpointError, DamagedCheckpointError


def test_round_trip(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"a": torch.arange(3), "b": {"c": [1, "x", None, 2.5]}})
    state = checkpoint.load(path)
    assert torch.equal(state["a"], torch.arange(3))
    assert state["b"] == {"c": [1, "x", None, 2.5]}


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_file_and_is_said(tmp_path, monkeypatch, function):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"epoch": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.save(path, {"epoch": 2})
    assert str(caught.value) == f"cannot write {path}: No space left on device; the file that was there is unharmed"
    with pytest.raises(CheckpointError) as caught:
        checkpoint.save(tmp_path / "new.pt", {"epoch": 2})
    assert str(caught.value).endswith("No space left on device")
    assert checkpoint.load(path)["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write .*No such file or directory"):
        checkpoint.save(tmp_path / "absent" / "last.pt", {})


@pytest.mark.parametrize("keep", [0, 10, -100])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"a": torch.arange(1000)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedCheckpointError, match=r"last\.pt is damaged or not a checkpoint of asose_fast"):
        checkpoint.load(path)


def test_a_flipped_bit_anywhere_is_found_before_anything_is_unpickled(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"a": torch.arange(10)})
    content = path.read_bytes()
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    header = range(len(checkpoint.MAGIC) + 70)  # magic, checksum and version
    for place in {*header, *range(0, len(content), 29), len(content) - 1}:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedCheckpointError, match="is damaged or not a checkpoint"):
            checkpoint.load(path)


def test_code_in_a_file_does_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    pickled = io.BytesIO()
    torch.save({"x": Harmful()}, pickled)
    (tmp_path / "last.pt").write_bytes(checkpoint.sealed(pickled.getvalue()))
    with pytest.raises(CheckpointError, match="damaged or not a checkpoint"):
        checkpoint.load(tmp_path / "last.pt")
    assert not (tmp_path / "harm").exists()


def test_foreign_files_and_other_versions_are_refused(tmp_path):
    path = tmp_path / "last.pt"
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*last\.pt"):
        checkpoint.load(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(DamagedCheckpointError, match="does not begin as one of this release does"):
        checkpoint.load(path)
    checkpoint.save(path, [1, 2])
    with pytest.raises(DamagedCheckpointError, match="it holds a list"):
        checkpoint.load(path)
    path.write_bytes(checkpoint.sealed(b"", version=99))
    with pytest.raises(CheckpointError, match="has checkpoint version 99; this release of asose_fast reads version 2"):
        checkpoint.load(path)
