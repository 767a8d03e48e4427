"""`python -m asose_fast.train` in a forked copy of this process, which has everything imported already."""

from __future__ import annotations

import mmap
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import sklearn.datasets  # noqa: F401  what a run imports when it needs it, so that its copies need not
import torch._dynamo
import torch.utils.tensorboard  # noqa: F401

from asose_fast.engine.state import SearchState
from asose_fast.engine.trainer import Trainer
from asose_fast.train import main
from tests.campaigns.fork import fork


class Run:
    """A run of the command in a process of its own; how far it is can be seen while it goes on."""

    def __init__(self, arguments: Sequence[str], log: Path, prepare: Callable[[], None] = lambda: None) -> None:
        """Starts it. `prepare` is called in the new process, ahead of the command; `log` gets all that it prints."""
        self.log = log
        self._shared = mmap.mmap(-1, 8)
        self._shared[:] = (-1).to_bytes(8, "little", signed=True)
        self._status: int | None = None
        sys.stdout.flush()
        self.pid = fork()
        if not self.pid:
            self._be_the_command(arguments, prepare)

    def _be_the_command(self, arguments: Sequence[str], prepare: Callable[[], None]) -> None:
        status = 70
        try:
            file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            self._watch_trainers()
            prepare()
            status = main(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def _watch_trainers(self) -> None:
        built, shared = Trainer.__init__, self._shared

        class Steps:
            def on_epoch_start(self, state: SearchState, phase: object) -> None:
                self.on_step(state)

            def on_step(self, state: SearchState) -> None:
                done = state.progress.epoch * state.data.train.num_batches() + state.progress.step
                shared[:] = done.to_bytes(8, "little", signed=True)

            def on_epoch_end(self, state: SearchState, record: object) -> None: ...

        def watched(trainer: Trainer, *arguments: object) -> None:
            built(trainer, *arguments)
            trainer.observers.append(Steps())

        Trainer.__init__ = watched

    @property
    def steps(self) -> int:
        """Weight steps that the search has behind it, -1 before it begins."""
        return int.from_bytes(self._shared[:], "little", signed=True)

    def ended(self) -> bool:
        """Whether the process has ended, by itself or not."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def signal_at(self, number: int, steps: int, delay: float) -> bool:
        """Sends a signal `delay` seconds after so many steps; False where the process had ended before."""
        while self.steps < steps and not self.ended():
            time.sleep(0.0005)
        time.sleep(delay)
        if self.ended():
            return False
        os.kill(self.pid, number)
        return True

    def wait(self) -> int:
        """The exit status, negative for a signal."""
        while not self.ended():
            time.sleep(0.001)
        assert self._status is not None
        return self._status

    def said(self) -> str:
        """All that it printed."""
        return self.log.read_text(errors="replace")
