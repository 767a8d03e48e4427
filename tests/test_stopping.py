"""Signals that end a run, whatever its main thread is waiting for."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asose_fast.stopping import stopping_on_signals
from tests.helpers import ROOT

WAITS = """
import ctypes, queue, sys, threading
from asose_fast import stopping
stopping.PATIENCE = float(sys.argv[1])
with stopping.stopping_on_signals(lambda reason: print("asked", flush=True), "COMMAND"):
    print("ready", flush=True)
    if sys.argv[2] == "queue":
        queue.Queue().get()
    mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    for _ in range(2):  # no handler runs within the second call
        libc.pthread_mutex_lock(mutex)
"""


def waiting(patience, where):
    command = [sys.executable, "-c", WAITS, str(patience), where]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    asleep = 0
    while asleep < 5:  # it waits in the end, and before that may sleep for an instant
        asleep = asleep + 1 if Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S" else 0
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("where", ["queue", "library"])
def test_a_run_that_does_not_stop_is_ended(where):
    process = waiting(1.0, where)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said, error = process.communicate(timeout=60)
    assert time.monotonic() - started >= 1.0
    assert process.returncode == 128 + signal.SIGTERM
    assert error == (
        "error: the run did not stop within 1 s of SIGTERM; what came after the last checkpoint is lost. "
        "To go on: COMMAND\n"
    )
    assert said == ("asked\n" if where == "queue" else "")


@pytest.mark.parametrize("where", ["queue", "library"])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_run_at_once(where, second):
    process = waiting(600.0, where)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(second)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert f"stopped at once by another {second.name}" in error
    assert "Traceback" not in error


def test_a_run_that_stops_goes_on_to_its_end():
    asked, before = [], signal.getsignal(signal.SIGTERM)
    with stopping_on_signals(asked.append, "COMMAND"):
        signal.raise_signal(signal.SIGTERM)
    assert asked == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_handler_of_the_block_itself_stays():
    before = signal.getsignal(signal.SIGTERM)
    with stopping_on_signals(lambda reason: None, "COMMAND"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.raise_signal(signal.SIGTERM)
    assert signal.signal(signal.SIGTERM, before) is signal.SIG_IGN
