"""The number of threads: what a step gains from, and what others leave of the cores."""

import subprocess
import sys
import time

import pytest
import torch

from asose_fast.engine import load, threads
from asose_fast.engine.load import Load
from asose_fast.engine.processes import Processes
from asose_fast.engine.threads import FreeCores, set_threads

LARGE, DIGITS, SMALL = 1 << 20, 1 << 16, (1 << 16) - 1


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """Of a machine on which nothing is known about others, unless a test says it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(threads, "FIRST_LOOK", 0.0)
    monkeypatch.setattr(threads, "cores", lambda: 2)
    monkeypatch.setattr(load, "cores", lambda: 2)
    monkeypatch.setattr(Load, "others", lambda self: None)
    yield
    torch.set_num_threads(before)


class Others:
    """A load of which the next looks are known."""

    def __init__(self, *looks):
        self._looks = iter(looks)

    def others(self):
        return next(self._looks)


@pytest.mark.parametrize(
    ("given", "elements", "others", "expected"),
    [
        (None, LARGE, None, 2),
        (None, SMALL, None, 1),
        (None, DIGITS, None, 2),
        (None, DIGITS, 2.0, 1),
        (3, LARGE, None, 3),
        (3, SMALL, 2.0, 3),
        (None, LARGE, 0.0, 2),
        (None, LARGE, 0.4, 2),
        (None, LARGE, 0.7, 1),
        (None, LARGE, 2.0, 1),
    ],
)
def test_the_threads_of_a_run(given, elements, others, expected, monkeypatch):
    monkeypatch.setattr(Load, "others", lambda self: others)
    watching = set_threads(given, elements)
    assert torch.get_num_threads() == expected
    assert len(watching) == (given is None and elements != SMALL)


def test_a_step_has_no_more_threads_than_it_gains_from(monkeypatch):
    torch.set_num_threads(4)
    set_threads(None, DIGITS)
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(threads, "cores", lambda: 8)
    set_threads(None, 3 * DIGITS, Processes(count=2, rank=0, local_count=2))
    assert torch.get_num_threads() == 3


def test_several_processes_share_the_cores():
    assert set_threads(None, LARGE, Processes(count=2, rank=0, local_count=2)) == []
    assert torch.get_num_threads() == 1


def test_it_looks_again_after_some_seconds(monkeypatch):
    free = FreeCores(2, Others(1.0, 0.0, None))
    monkeypatch.setattr(threads, "BETWEEN_LOOKS", 3600.0)
    free.on_step(None)
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(threads, "BETWEEN_LOOKS", 0.0)
    seen = []
    for _ in range(3):
        free.on_step(None)
        seen.append(torch.get_num_threads())
    assert seen == [1, 2, 2]  # what is not known changes nothing


def written(path, *cores):
    """Ticks of user, nice, system, idle, iowait, irq, softirq, steal, guest and its nice, a line a core."""
    lines = [f"cpu{i} {' '.join(map(str, times))}" for i, times in enumerate(cores)]
    path.write_text("\n".join(["cpu 1 2 3", *lines, "intr 5 6", "ctxt 7"]))


@pytest.fixture
def stat(tmp_path, monkeypatch):
    """A file like /proc/stat, read by a clock of its own: `stat.now` is (seconds, those of this process)."""
    monkeypatch.undo()
    path = tmp_path / "stat"
    now = [0.0, 0.0]
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.setattr(load.os, "sysconf", lambda _: 100, raising=False)
    monkeypatch.setattr(load.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(load.time, "process_time", lambda: now[1])
    return path, now


def test_what_others_do_is_what_the_cores_did_without_this_process(stat):
    path, now = stat
    written(path, [100] * 10, [200] * 10, [0] * 10)
    seen = Load(path)
    # One core worked for 1 s as user and 0.5 s as steal, the other for 0.5 s; the third is not for this process.
    written(
        path,
        [200, 100, 100, 150, 150, 100, 100, 150, 100, 100],
        [200, 250, 200, 300, 200, 200, 200, 200, 200, 200],
        [900] * 10,
    )
    now[:] = [2.0, 0.75]
    assert seen.others() == pytest.approx((1.5 + 0.5 - 0.75) / 2)
    now[:] = [3.0, 5.0]
    assert seen.others() == 0.0


@pytest.mark.parametrize("text", ["", "cpu0 a b c d e", "cpu7 1 1 1 1 1 1 1 1"])
def test_where_it_cannot_be_read_nothing_is_known(text, stat):
    path, now = stat
    path.write_text(text)
    seen = Load(path)
    now[0] = 1.0
    assert seen.others() is None
    assert Load(path.parent / "missing").others() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/stat")
def test_a_busy_process_is_seen(monkeypatch):
    monkeypatch.undo()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        seen = Load()
        time.sleep(0.5)
        found = seen.others()
        busy.kill()
    assert found > 0.2
