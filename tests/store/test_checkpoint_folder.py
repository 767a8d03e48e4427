"""The checkpoints of a run: which stay, which is taken, what is said of damaged ones."""

import os
import re

import pytest

from asose_fast.store import checkpoint, checkpoint_folder
from asose_fast.store.checkpoint import CheckpointError
from asose_fast.store.checkpoint_folder import load_newest, save_newest


def save(folder, *positions, keep=3):
    for epoch, step in positions:
        save_newest(folder, epoch, step, {"at": (epoch, step)}, keep)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def newest(folder):
    """The state that is loaded and what is said about it."""
    told = []
    _, state = load_newest(folder, told.append)
    return state["at"], told


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_newest_few_stay_and_last_is_the_newest(tmp_path):
    save(tmp_path, (0, 0), (0, 7), (0, 12), (1, 0))
    assert names(tmp_path) == [
        *("epoch-0000-step-000007.pt", "epoch-0000-step-000012.pt", "epoch-0001-step-000000.pt", "last.pt")
    ]
    assert (tmp_path / "last.pt").samefile(tmp_path / "epoch-0001-step-000000.pt")
    assert newest(tmp_path) == ((1, 0), [])
    save(tmp_path, (1, 5), keep=1)
    assert names(tmp_path) == ["epoch-0001-step-000005.pt", "last.pt"]


def test_positions_are_compared_as_numbers(tmp_path):
    save(tmp_path, (9999, 0), (10000, 0), (10000, 1000000))
    assert newest(tmp_path)[0] == (10000, 1000000)


def test_without_hard_links_last_is_a_copy(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    save(tmp_path, (0, 0), (0, 1))
    assert not (tmp_path / "last.pt").samefile(tmp_path / "epoch-0000-step-000001.pt")
    assert checkpoint.load(tmp_path / "last.pt") == {"at": (0, 1)}


def test_last_alone_is_enough(tmp_path):
    save(tmp_path, (0, 0), (0, 1))
    for path in tmp_path.glob("epoch-*"):
        path.unlink()
    assert newest(tmp_path) == ((0, 1), [])


@pytest.mark.parametrize("bad", [1, 2])
def test_damaged_ones_are_named_and_the_newest_good_one_is_taken(tmp_path, bad):
    save(tmp_path, (0, 0), (0, 1), (0, 2))
    for step in range(2, 2 - bad, -1):
        damage(tmp_path / f"epoch-0000-step-{step:06d}.pt")
    state, told = newest(tmp_path)
    assert state == (0, 2 - bad)
    assert len(told) == bad
    for step, line in zip((2, 1), told, strict=False):
        assert f"epoch-0000-step-{step:06d}.pt is damaged" in line
        assert line.endswith(f"; going on from the newest good one, epoch-0000-step-{2 - bad:06d}.pt")


def test_a_damaged_newer_one_takes_no_place_and_is_not_tried_again(tmp_path):
    save(tmp_path, (0, 0), (1, 0), (2, 0))
    damage(tmp_path / "epoch-0002-step-000000.pt")
    save(tmp_path, (1, 3))  # as a run does that was resumed from (1, 0)
    assert newest(tmp_path) == ((1, 3), [])
    assert len(list(tmp_path.glob("epoch-*"))) == 3


def test_none_good_is_one_error_that_names_all(tmp_path):
    save(tmp_path, (0, 0), (0, 1))
    for path in tmp_path.glob("epoch-*"):
        damage(path)
    with pytest.raises(CheckpointError, match="no good checkpoint is left") as caught:
        newest(tmp_path)
    assert re.findall(r"([\w-]+\.pt) is damaged", str(caught.value)) == [
        *("epoch-0000-step-000001.pt", "epoch-0000-step-000000.pt", "last.pt")
    ]


def test_an_empty_folder_is_said(tmp_path):
    assert not checkpoint_folder.holds_checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*: start the run anew"):
        newest(tmp_path)


def test_another_version_is_no_damage(tmp_path):
    save(tmp_path, (0, 0))
    (tmp_path / "epoch-0000-step-000001.pt").write_bytes(checkpoint.sealed(b"", version=99))
    with pytest.raises(CheckpointError, match="has checkpoint version 99"):
        newest(tmp_path)


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    (tmp_path / ".epoch-0000-step-000001.pt.4711").write_bytes(b"half")
    save(tmp_path, (0, 1))
    assert names(tmp_path) == ["epoch-0000-step-000001.pt", "last.pt"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    save(tmp_path, (0, 0), (0, 1))
    before = names(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot write .*epoch-0000-step-000002\.pt: No space left on device$"):
        save(tmp_path, (0, 2), keep=1)
    assert names(tmp_path) == before
    assert newest(tmp_path) == ((0, 1), [])
