"""What the commands have in common: arguments, warnings, errors and the exit status."""

from __future__ import annotations

import argparse
import difflib
import functools
import re
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn, Protocol

from asose_fast.machine import refused
from asose_fast.program import spelled
from asose_fast.terminal import unfailing_streams

EXIT_ERROR, EXIT_BREACH = 2, 3


def warn(message: str) -> None:
    """Says what does not end the command."""
    sys.stderr.write(f"warning: {message}\n")


def failed(message: str, status: int = EXIT_ERROR) -> int:
    """Says what ends the command. Returns its exit status."""
    sys.stderr.write(f"error: {message}\n")
    return status


def reason(error: Exception) -> str | None:
    """What the user or the machine is at fault with. None where it is the program, whose error needs a traceback."""
    if isinstance(error, ValueError):
        return str(error)
    return refused(error)


class Main(Protocol):
    """What runs a command: with the arguments of the process for None. Returns the exit status."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int: ...


def command(function: Callable[[Sequence[str]], int]) -> Main:
    """Makes a command of a function of the arguments that returns the exit status.

    An error that the function raises is said, and gives status 2; SIGINT gives 130. Printing never raises.
    """

    @unfailing_streams()
    @functools.wraps(function)
    def main(arguments: Sequence[str] | None = None) -> int:
        try:
            return function(sys.argv[1:] if arguments is None else arguments)
        except KeyboardInterrupt:
            return failed("stopped by SIGINT", 128 + signal.SIGINT)
        except Exception as error:
            if (what := reason(error)) is None:
                raise
            return failed(what)

    return main


def nearest(word: str, known: Collection[str]) -> str:
    """The end of an error about an unknown word: the known one that is meant, where one is near."""
    near = difflib.get_close_matches(word, known, n=1)
    near = near or [name for name in known if word == "".join(part[:1] for part in name.split("_"))]  # lr, bs, wd
    return f": did you mean {near[0]!r}?" if near else ""


def end_with(message: str, parser: argparse.ArgumentParser) -> NoReturn:
    """Ends the process with a parser's error, to which the nearest right option or choice is added."""
    message = message.rstrip()
    options = [option.lstrip("-") for option in parser._option_string_actions]
    if unknown := re.search(r"unrecognized arguments: --([\w.]+)|Option '([\w.]+)' is not accepted", message):
        message += nearest(unknown[1] or unknown[2], options)
    elif choice := re.search(r"Literal\[(.*)\]\. Got value: (\S+)", message):
        message += nearest(choice[2], re.findall(r"'(.*?)'", choice[1]))
    elif choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
        message += nearest(choice[1], re.findall(r"[\w-]+", choice[2]))
    sys.exit(failed(message))


def normalized(words: Sequence[str], switches: Collection[str] = ()) -> list[str]:
    """--some-option=value as --some_option=value, and a bare --switch, of `switches`, as --switch=true."""
    result = []
    for word, following in zip(words, [*words, "--"][1:], strict=True):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            word = "--" + name[2:].replace("-", "_") + equals + value
            if word in switches and following.startswith("--"):
                word += "=true"
        result.append(word)
    return result


class Parser(argparse.ArgumentParser):
    """The parser of a command with few options, which may be written with hyphens or underscores."""

    def __init__(self, command: str, description: str | None) -> None:
        super().__init__(prog=spelled(command), description=description)

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        return super().parse_args(normalized(sys.argv[1:] if args is None else args))

    def error(self, message: str) -> NoReturn:
        end_with(message, self)
