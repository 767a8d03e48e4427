"""Plays python3 in a session on a GPU machine: `benchmarks.gpu` measures nothing, with failures planted among it."""

import functools
import os
import signal
import sys
import time

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import table


def one():
    return 1


def fine():
    return one


def fails():
    raise ValueError("no such kernel")


def exits():
    os._exit(3)


def crashes():
    os.kill(os.getpid(), signal.SIGSEGV)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def deaf():
    """Hangs where no signal reaches Python, as a kernel that never ends makes the host."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(3600)


def for_ever():
    time.sleep(3600)


def planted(**variants):
    def work(measured):
        measured.compare("compared", {"ours": fine, **variants, "eager": fine})
        measured.note("after", "here")

    return work


def main():
    table.MAKING, table.COMPILING = 10, 1
    gpu.Table = functools.partial(table.Table, patience=1)
    sections = {"steps": {"crashes": crashes, "fails": fails}, "mixing": {"deaf": deaf}, "kernels": {"exits": exits}}
    sections |= {"graphs": {"killed": killed}, "launches": {"compile for ever": for_ever}}
    for name, (_, seconds) in gpu.SECTIONS.items():
        gpu.SECTIONS[name] = (planted(**sections.get(name, {})), seconds)
    gpu.main(sys.argv[1:])


main()
