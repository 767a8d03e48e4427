"""Sets above the memory limit are decoded once: their file is made, gone on with, found again and checked."""

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asose_fast.data import DataConfig, DataError, load_data
from asose_fast.data import cache as module
from asose_fast.data.cache import NoRoomError, cached
from asose_fast.data.images import FileImages, open_files
from asose_fast.data.parallel import in_threads

CPU = torch.device("cpu")


@pytest.fixture
def images(write_classes):
    """20 images, of which the names are not in order."""
    root = write_classes({"b": 14, "a": 6})
    return open_files([str(path) for path in sorted(root.rglob("*.png"), reverse=True)], None)


@pytest.fixture
def decoded(monkeypatch):
    """Counts the images that are decoded."""
    found, read = [], FileImages.read
    monkeypatch.setattr(FileImages, "read", lambda self, numbers: found.extend(numbers) or read(self, numbers))
    return found


def load(root, **settings):
    return load_data(DataConfig(f"imagefolder:{root}", **settings), 4, 0, CPU)


def batches(data):
    return [batch for split in (data.train, data.valid, data.test) for batch in split.batches(1)]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_batches_are_those_of_memory_bit_for_bit(write_classes, cache, workers):
    root = write_classes({"a": 14, "b": 23})
    expected, streamed = load(root), load(root, memory_limit_gb=0.0, workers=workers)
    assert streamed.digest == expected.digest
    for ours, theirs in zip(batches(streamed), batches(expected), strict=True):
        assert all(map(torch.equal, ours, theirs))
    (path,) = cache.iterdir()
    assert path.stat().st_size == 37 * 8 * 8 * 3
    assert streamed.storage == f"decoded images take 0.0 MB, above memory_limit_gb 0: they are read from {path}"


def test_images_are_decoded_once_for_all_epochs_seeds_and_runs(write_classes, cache, decoded):
    root = write_classes({"a": 14, "b": 23})
    for seed in (0, 1):
        data = load_data(DataConfig(f"imagefolder:{root}", memory_limit_gb=0.0), 4, seed, CPU)
        batches(data)
    assert sorted(decoded) == list(range(37))
    load(root, memory_limit_gb=0.0, image_size=4)
    assert len(decoded) == 2 * 37
    batches(load(root, memory_limit_gb=0.0, cache_root=None))
    assert len(decoded) == 4 * 37
    assert len(list(cache.iterdir())) == 2


def test_other_images_have_another_file(images, cache):
    first = cached(images, "auto").path
    path = images.paths[3]
    pixels = np.asarray(Image.open(path))
    Image.fromarray(255 - pixels).save(path)
    os.utime(path, ns=(1, 1))
    again = cached(images, "auto")
    assert again.path != first
    for one in range(20):
        assert torch.equal(again.read([one]), images.read([one]))
    assert cached(dataclasses.replace(images, paths=images.paths[1:]), "auto").path not in (first, again.path)


def test_what_a_killed_process_has_left_is_gone_on_with(images, cache, decoded):
    path = Path(cached(images, "auto").path)
    whole = path.read_bytes()
    decoded.clear()
    path.with_suffix(".part").write_bytes(whole[: 7 * 192 + 100])  # seven images, and some of the eighth
    path.unlink()
    assert cached(images, "auto").path == str(path)
    assert path.read_bytes() == whole
    assert len(decoded) == 13
    assert list(cache.iterdir()) == [path]


def test_a_file_of_another_length_is_made_anew(images, cache):
    path = Path(cached(images, "auto").path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert Path(cached(images, "auto").path).read_bytes() == whole
    found = cached(images, "auto")
    path.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="has become shorter: remove it, and it is made anew"):
        found.read(range(20))


WAITS = """
import fcntl, sys, time
file = open(sys.argv[1], "ab")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


def test_a_process_that_finds_another_at_work_waits_for_it(images, cache):
    path = Path(cached(images, "auto").path)
    part = path.rename(path.with_suffix(".part"))
    other = subprocess.Popen([sys.executable, "-c", WAITS, str(part)], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"locked\n"
    started = time.monotonic()
    signal.signal(signal.SIGALRM, lambda *_: other.kill())
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    cached(images, "auto")
    assert time.monotonic() - started >= 0.3
    assert list(cache.iterdir()) == [path]
    other.wait()


def test_broken_images_are_all_named_and_leave_nothing(images, cache):
    for path in images.paths[2:4]:
        Path(path).write_bytes(Path(path).read_bytes()[:100])
    with pytest.raises(DataError, match="2 images cannot be used"):
        cached(images, "auto")
    assert not list(cache.iterdir())


def test_without_room_images_are_decoded_anew_and_that_is_said(write_classes, cache, monkeypatch, decoded):
    root = write_classes({"a": 14, "b": 23})
    monkeypatch.setattr(module, "SPARE", 10**18)
    data = load(root, memory_limit_gb=0.0)
    assert "they are decoded anew in every epoch, since" in data.storage
    assert data.storage.endswith("and 0.0 GB are needed")
    batches(data)
    assert len(decoded) == 2 * 37
    assert not list(cache.iterdir())


def test_a_disk_that_fills_up_leaves_nothing(images, cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoRoomError, match="cannot be written: No space left on device"):
        cached(images, "auto")
    assert not list(cache.iterdir())


def test_the_folder_may_be_named(images, tmp_path, cache):
    assert cached(images, str(tmp_path / "deep" / "kept")).path.startswith(f"{tmp_path}/deep/kept/")
    (tmp_path / "file").touch()
    with pytest.raises(NoRoomError, match="cannot be written"):
        cached(images, str(tmp_path / "file"))
    assert not cache.exists()


def test_what_workers_are_sent_is_small(images, cache):
    assert len(pickle.dumps(cached(images, "auto"))) < 1000


def test_results_wait_for_a_few_chunks_only():
    begun = []

    def work(chunk):
        begun.append(chunk)
        return chunk

    results = in_threads(work, 10**6, "Working")
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 4 * (os.cpu_count() or 1)
    results.close()
    assert [number for chunk in in_threads(lambda chunk: chunk, 1000, "Working") for number in chunk] == list(
        range(1000)
    )
