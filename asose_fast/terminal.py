"""Commands print through this module: nothing that is printed ends a run, and what users named is printed as it is."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, Literal, TextIO, cast

from rich.console import Console

ConsoleMode = Literal["auto", "plain", "quiet"]


def make_console(mode: ConsoleMode = "auto", *, speaks: bool = True, stderr: bool = False) -> Console:
    """Makes a console for a mode. auto prints colours and a progress bar on a terminal, and plain text elsewhere. plain
    prints plain text everywhere, and quiet nothing.

    Nothing in a text is taken for markup or an emoji, or coloured: styles are given by `rich.text.Text`. Printing never
    raises. Errors and warnings do not go through it. `speaks`: whether this process prints.
    """
    file = _Unfailing(sys.stderr if stderr else sys.stdout)
    ours: dict[str, Any] = {"file": cast(TextIO, file), "markup": False, "emoji": False, "highlight": False}
    if mode == "plain":
        return Console(quiet=not speaks, color_system=None, force_terminal=False, force_interactive=False, **ours)
    return Console(quiet=not speaks or mode == "quiet", **ours)


@contextlib.contextmanager
def unfailing_streams() -> Iterator[None]:
    """Within it, or in a function that it decorates, writing to standard output and error does not raise.

    What an encoding lacks becomes "?". Where a stream cannot be written, as `| head` leaves it, or is closed, what
    follows is dropped.
    """
    output, errors = _Unfailing(sys.stdout), _Unfailing(sys.stderr)
    with contextlib.redirect_stdout(cast(TextIO, output)), contextlib.redirect_stderr(cast(TextIO, errors)):
        try:
            yield
        finally:
            output.flush()
            errors.flush()


class _Unfailing:
    """This is a text stream, to which is written what can be."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream  # None where the process began with a closed one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        stream = self._stream
        if stream is None:
            return len(text)
        try:
            return stream.write(text)
        except UnicodeEncodeError:
            return self.write(text.encode(stream.encoding, "replace").decode(stream.encoding))
        except (OSError, ValueError):  # the latter is raised by a closed stream
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            if self._stream is not None:
                self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """Lets what is buffered go where it can be written: the interpreter flushes the stream once more at its end."""
        with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self.fileno())
