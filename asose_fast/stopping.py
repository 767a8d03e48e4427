"""SIGINT and SIGTERM ask a run to stop, and end it where it does not."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

PATIENCE = 30.0
"""A run that has not stopped so many seconds after the signal is ended. Most senders wait as long before they kill."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def stopping_on_signals(stop: Callable[[signal.Signals], None], command_to_resume: str) -> Iterator[None]:
    """Calls `stop` at the first SIGINT or SIGTERM inside the block. A second one ends the process at once, and so does
    a block that is not over `PATIENCE` seconds after the first. Afterwards signals have the handlers of before, but for
    those that the block itself has given another.

    A handler runs between two lines of the main thread, which may be waiting for a process or a disk that never
    answers. So every signal goes to a thread as well, and that ends the process.
    """
    inbox, outbox = socket.socketpair()
    outbox.setblocking(False)

    def ask(number: int, _: FrameType | None) -> None:
        stop(signal.Signals(number))

    handlers = {number: signal.signal(number, ask) for number in SIGNALS}
    before = signal.set_wakeup_fd(outbox.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(inbox, command_to_resume), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            if signal.getsignal(number) is ask:
                signal.signal(number, handler)
        outbox.close()  # which ends the watch
        watch.join()
        inbox.close()


def _watch(inbox: socket.socket, command_to_resume: str) -> None:
    try:
        first = _next(inbox)
        why = f"the run did not stop within {PATIENCE:g} s of {first.name}"
        with contextlib.suppress(TimeoutError):
            why = f"stopped at once by another {_next(inbox, time.monotonic() + PATIENCE).name}"
    except EOFError:
        return
    sys.stderr.write(f"error: {why}; what came after the last checkpoint is lost. To go on: {command_to_resume}\n")
    sys.stderr.flush()
    os._exit(128 + first)


def _next(inbox: socket.socket, deadline: float | None = None) -> signal.Signals:
    """Returns the next of `SIGNALS`. Raises EOFError when there will be no more, TimeoutError at the deadline."""
    while True:
        inbox.settimeout(None if deadline is None else max(1e-3, deadline - time.monotonic()))
        byte = inbox.recv(1)
        if not byte:
            raise EOFError
        if byte[0] in SIGNALS:
            return signal.Signals(byte[0])
